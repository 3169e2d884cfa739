// A pool of threads that share the iterations of a loop.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mindone {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// As many threads as `thread_count` says, the caller among them. Idle threads look out for work for a moment before
// they sleep: most kernels follow one another. The pool is never destroyed, so that no thread outlives what it waits for
// when the process ends.
class Pool {
 public:
  static Pool& instance() {
    static std::mutex mutex;
    static Pool* pool = nullptr;
    // A forked process has none of its parent's threads.
    static const int registered = pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); },
                                                 [] {
                                                   pool = nullptr;
                                                   mutex.unlock();
                                                 });
    static_cast<void>(registered);
    std::lock_guard<std::mutex> lock(mutex);
    if (!pool) pool = new Pool();
    return *pool;
  }

  int threads() const { return threads_; }

  // Calls body(i) for all 0 <= i < count, and throws what one of them threw. Calls from several threads take turns; a
  // call from within a body is done by the thread that makes it.
  void run(int64_t count, const std::function<void(int64_t)>& body) {
    if (count <= 1 || threads_ == 1 || inside()) {
      for (int64_t i = 0; i < count; ++i) body(i);
      return;
    }
    std::lock_guard<std::mutex> turn(turn_);
    body_ = &body;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    working_.store(threads_ - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    inside() = true;
    work();
    inside() = false;
    for (int look = 1; working_.load(std::memory_order_acquire); ++look) {
      pause();
      if (look % 64 == 0) sched_yield();  // another process may hold the core that the last one needs
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  static constexpr int kLooks = 400;

  Pool() {
    cpu_set_t cores;
    const int usable = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    const int wanted = thread_count(usable, std::getenv("OMP_NUM_THREADS"));
    try {
      for (; threads_ < wanted; ++threads_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {  // the system gives no more threads
    }
  }

  // Whether this thread is in a body.
  static bool& inside() {
    static thread_local bool value = false;
    return value;
  }

  void work() {
    try {
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*body_)(i);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
    }
  }

  void serve() {
    inside() = true;
    uint64_t seen = 0;
    for (;;) {
      for (int look = 0; look < kLooks && round_.load(std::memory_order_acquire) == seen; ++look) {
        pause();
        if (look % 16 == 15) sched_yield();  // MindSpore's own threads may wait for this core
      }
      if (round_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_.load(std::memory_order_relaxed) != seen; });
      }
      ++seen;
      work();
      working_.fetch_sub(1, std::memory_order_release);
    }
  }

  int threads_ = 1;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> working_{0};
  std::atomic<uint64_t> round_{0};
  std::exception_ptr error_;
  std::mutex turn_, mutex_;
  std::condition_variable wake_;
};

// Calls body(first, last) for pieces of [0, count) of about `piece`.
inline void parallel_pieces(int64_t count, int64_t piece, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t pieces = (count + piece - 1) / piece;
  Pool::instance().run(pieces, [&](int64_t i) { body(i * piece, std::min(count, (i + 1) * piece)); });
}

inline void parallel_for(int64_t count, const std::function<void(int64_t)>& body) { Pool::instance().run(count, body); }

}  // namespace mindone

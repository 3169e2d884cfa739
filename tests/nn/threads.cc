// What test_threads.py runs: how many threads there are, and the pool called from bodies, threads and a forked process.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "parallel.h"

using namespace mindone;

namespace {

// The sum of 0 ... n - 1, by loops within loops.
int64_t nested_sum(int64_t n) {
  std::atomic<int64_t> total{0};
  parallel_for(8, [&](int64_t i) {
    parallel_for(n, [&](int64_t j) {
      if (j % 8 == i) parallel_pieces(1, 1, [&](int64_t, int64_t) { total += j; });
    });
  });
  return total;
}

bool right() { return nested_sum(1000) == 499500; }

bool right_in_threads() {
  std::atomic<int> faults{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int k = 0; k < 50; ++k) faults += !right();
    });
  for (auto& caller : callers) caller.join();
  return faults == 0;
}

bool right_in_fork() {
  if (!right()) return false;
  const pid_t child = fork();
  if (child == 0) _exit(right() ? 0 : 1);
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

bool right_after_exception() {
  for (int i = 0; i < 20; ++i) {
    bool caught = false;
    try {
      parallel_for(100, [&](int64_t k) {
        if (k == 57) throw std::runtime_error("57");
      });
    } catch (const std::runtime_error& error) {
      caught = std::strcmp(error.what(), "57") == 0;
    }
    if (!caught || !right()) return false;
  }
  return true;
}

}  // namespace

// count CORES ROOT prints the number of threads, pool that of the pool; the others print whether all went well.
int main(int, char** arguments) {
  const std::string what = arguments[1];
  if (what == "count")
    std::printf("%d\n", thread_count(std::atoi(arguments[2]), std::getenv("OMP_NUM_THREADS"), arguments[3]));
  else if (what == "pool")
    std::printf("%d\n", Pool::instance().threads());
  else
    std::printf("%d\n", what == "nested"      ? right()
                        : what == "threads"   ? right_in_threads()
                        : what == "fork"      ? right_in_fork()
                        : what == "exception" ? right_after_exception()
                                              : false);
}

// How many threads this process may use.
#pragma once

#include <string>

namespace mindone {

// The least of `cores`, of `wanted` (OMP_NUM_THREADS: a number, or a list of which the first one counts; nothing if it
// is neither), and of the cores that the quotas of cgroups (version 1 or 2) amount to, rounded up; at least 1. `root`
// comes before /proc and /sys.
int thread_count(int cores, const char* wanted, const std::string& root = "");

}  // namespace mindone

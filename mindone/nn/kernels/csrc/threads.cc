#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace mindone {
namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Cores of "microseconds period"; no limit if there is none ("max", or -1).
double cores_of(const std::string& text) {
  std::istringstream words(text);
  double quota, period;
  return words >> quota >> period && quota > 0 && period > 0 ? quota / period : INFINITY;
}

// The least quota of a group and of those above it. In a container that sees only its own part of the tree the path may
// lead to nothing; the group above all others is its own then.
double least_quota(const std::string& mount, std::string path, bool second_version) {
  for (double least = INFINITY;; path.erase(path.rfind('/'))) {
    const std::string folder = mount + path + "/";
    least = std::min(least, cores_of(second_version ? contents(folder + "cpu.max")
                                                    : contents(folder + "cpu.cfs_quota_us") + " " +
                                                          contents(folder + "cpu.cfs_period_us")));
    if (path.empty()) return least;
  }
}

// Lines of /proc/self/cgroup are number:controllers:path, without controllers for version 2.
double quota(const std::string& root) {
  double least = INFINITY;
  std::istringstream groups(contents(root + "/proc/self/cgroup"));
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos || line.compare(second, 2, ":/") != 0) continue;
    const std::string names = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    const std::string folder = root + "/sys/fs/cgroup", below = path == "/" ? "" : path;
    if (names.empty()) {
      least = std::min(least, least_quota(folder, below, true));
      least = std::min(least, least_quota(folder + "/unified", below, true));
    } else if (("," + names + ",").find(",cpu,") != std::string::npos) {
      least = std::min(least, least_quota(folder + "/cpu", below, false));
      least = std::min(least, least_quota(folder + "/" + names, below, false));
    }
  }
  return least;
}

}  // namespace

int thread_count(int cores, const char* wanted, const std::string& root) {
  double count = std::min<double>(cores, std::ceil(quota(root)));
  char* end = nullptr;
  const long number = wanted ? std::strtol(wanted, &end, 10) : 0;
  if (number > 0 && (*end == '\0' || *end == ',' || *end == ' ')) count = std::min<double>(count, number);
  return static_cast<int>(std::max(1.0, count));
}

}  // namespace mindone

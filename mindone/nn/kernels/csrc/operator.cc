#include "operator.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace mindone {
namespace {

std::string text_of(const Tensors& tensors, int tensor) {
  std::string text = std::string(tensors.dtypes[tensor]) + " (";
  for (int i = 0; i < tensors.axes[tensor]; ++i) text += (i ? ", " : "") + std::to_string(tensors.size(tensor, i));
  return text + ")";
}

const char* dtype_of(char letter) { return letter == 'f' ? "float32" : letter == 'i' ? "int32" : "bool"; }

bool same_shape(const Tensors& t, int a, int b) {
  return t.axes[a] == t.axes[b] && std::memcmp(t.shapes[a], t.shapes[b], t.axes[a] * sizeof(int64_t)) == 0;
}

// Whether a tensor's shape is what the letters say; `lengths` are those that letters stand for, 0 if not known yet.
bool fits(const Tensors& t, int tensor, const std::string& letters, Index* lengths) {
  if (letters.empty()) return t.values(tensor) == 1;
  if (letters == "=") return same_shape(t, tensor, 0);
  const int known = static_cast<int>(letters.size()) - (letters.back() == '.');
  if (t.axes[tensor] < known || (letters.back() != '.' && t.axes[tensor] > known)) return false;
  for (int i = 0; i < known; ++i) {
    const Index size = t.size(tensor, i);
    const char letter = letters[i];
    if (letter >= '0' && letter <= '9' && size != letter - '0') return false;
    if (letter < 'A' || letter > 'z') continue;
    Index& length = lengths[letter - 'A'];
    if (!length) length = size;
    if (length != size) return false;
  }
  return true;
}

}  // namespace

void check_tensors(const char* name, const char* wanted, const Tensors& tensors) {
  Index lengths['z' - 'A' + 1] = {};
  int tensor = 0;
  for (const char* at = wanted; *at; ++tensor) {
    const char* end = std::strchr(at, ' ');
    const std::string letters = end ? std::string(at, end) : std::string(at);
    require(tensor < tensors.count, name, "there are too few tensors");
    const char* dtype = dtype_of(letters[0]);
    std::string fault;
    if (std::strcmp(tensors.dtypes[tensor], dtype) != 0)
      fault = std::string("; it has to be ") + dtype;
    else if (tensors.values(tensor) == 0)
      fault = ", without any values";
    else if (!fits(tensors, tensor, letters.substr(1), lengths))
      fault = std::string("; shapes have to be those of '") + wanted + "', a letter for each axis";
    if (!fault.empty())
      require(false, name, ("tensor " + std::to_string(tensor) + " is " + text_of(tensors, tensor) + fault).c_str());
    at = end ? end + 1 : at + letters.size();
  }
  require(tensor == tensors.count, name, "there are too many tensors");
}

void require(bool condition, const char* name, const char* sentence) {
  if (!condition) throw std::invalid_argument(std::string(name) + ": " + sentence);
}

}  // namespace mindone

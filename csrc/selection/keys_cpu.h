// The order of scores (order_key.h) as signed integers of their width, which vector units compare.
#pragma once

#include <limits>
#include <type_traits>

#include "order_key.h"
#include "vector_cpu.h"

namespace zsu {

template <class Format>
struct Keys {
  using Bits = typename Format::Bits;
  using Key = std::make_signed_t<Bits>;
  static constexpr Key kLargest = Key(Format::kInfinity);
  static constexpr Key kNaN = std::numeric_limits<Key>::min() + 1;  // below -infinity
  static constexpr Key kNone = std::numeric_limits<Key>::min();     // below every score

  static Key of(Bits bits, bool absolute) {
    const Key magnitude = Key(bits & Bits(~Format::kSign));
    if (magnitude > kLargest) return kNaN;
    return bits & Format::kSign && !absolute ? Key(-magnitude) : magnitude;
  }

  // Of as many scores as a vector holds. `sign`: filled(Key(absolute ? 0 : -1)).
  static Vec<Key> of(Vec<Key> bits, Vec<Key> sign) {
    const Vec<Key> magnitude = bits & filled(std::numeric_limits<Key>::max());
    const Vec<Key> negative = (bits < Vec<Key>{}) & sign;
    return magnitude > filled(kLargest) ? filled(kNaN) : (magnitude ^ negative) - negative;
  }
};

}  // namespace zsu

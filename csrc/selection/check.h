// The second line of defence: the Python wrappers have refused bad arguments with better words.
#pragma once

#include <vector>

#include "common/check.h"

namespace zsu {

// Where the indices of each of the vectors begin in the result, and last how many there are in all.
inline std::vector<int64_t> check_topk_indices(const std::vector<Tensor>& scores, const std::vector<int64_t>& k) {
  ZSU_CHECK(!scores.empty() && scores.size() == k.size(), "topk_indices: k must have one entry per vector of scores");
  std::vector<int64_t> first{0};
  for (size_t i = 0; i < scores.size(); ++i) {
    check_float("topk_indices", "scores", scores[i]);
    ZSU_CHECK(scores[i].dim() == 1 && scores[i].scalar_type() == scores[0].scalar_type() &&
                  scores[i].device() == scores[0].device(),
              "topk_indices: scores must be vectors of one dtype on one device");
    ZSU_CHECK(0 <= k[i] && k[i] <= scores[i].size(0), "topk_indices: k is out of range");
    first.push_back(first.back() + k[i]);
  }
  return first;
}

}  // namespace zsu

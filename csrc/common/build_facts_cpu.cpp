// What this CPU library was built from; an op without tensors, so that it can be asked on any machine.
#include <string>

#include "common/check.h"

namespace zsu {
namespace {

std::string cpu_build_facts() {
  return "version=" ZSU_VERSION ";torch=" ZSU_TORCH_VERSION ";level=" ZSU_CPU_LEVEL ";compiler=" __VERSION__;
}

}  // namespace
}  // namespace zsu

STABLE_TORCH_LIBRARY_IMPL(zsu_fast, CompositeExplicitAutograd, m) {
  m.impl("cpu_build_facts", TORCH_BOX(&zsu::cpu_build_facts));
}

// Facts of the processor for zsu_fast.build_info(). Includes no torch header: it is tied to one version of Python, the
// op libraries are tied to none; so builds from source have it, and wheels do without.
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

py::dict cpu_features() {
  py::dict features;
#if defined(__x86_64__)
  __builtin_cpu_init();
  features["avx2"] = __builtin_cpu_supports("avx2") != 0;
  features["fma"] = __builtin_cpu_supports("fma") != 0;
  features["f16c"] = __builtin_cpu_supports("f16c") != 0;
  features["avx512f"] = __builtin_cpu_supports("avx512f") != 0;
  features["avx512bf16"] = __builtin_cpu_supports("avx512bf16") != 0;
#endif
  return features;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.attr("VERSION") = ZSU_VERSION;
  m.attr("COMPILER") = __VERSION__;
  m.def("cpu_features", &cpu_features, "What the processor of this machine offers, by name.");
}

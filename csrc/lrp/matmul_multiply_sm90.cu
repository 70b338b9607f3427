// (input @ weight) * factor in one kernel: CUTLASS's warp-specialised Hopper GEMM, whose epilogue fetches the factor
// through the tensor memory accelerator while the product is still being computed, multiplies the float32 accumulators
// by it and rounds once. Compiled for sm_90a only: wgmma and setmaxnreg exist nowhere else.
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/operations.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/util/packed_stride.hpp>

#include "lrp/matmul_multiply_sm90.h"

namespace zsu::lrp::sm90 {
namespace {

namespace epilogue = cutlass::epilogue;
namespace fusion = cutlass::epilogue::fusion;
namespace gemm = cutlass::gemm;
using cute::_1, cute::_128, cute::_2, cute::_256, cute::_64;

// Two warp groups share a tile: the most arithmetic per byte of shared memory, where there are tiles for every
// multiprocessor.
struct Cooperative {
  using Tile = cute::Shape<_128, _256, _64>;
  using Mainloop = gemm::KernelTmaWarpSpecializedCooperative;
  using Epilogue = epilogue::TmaWarpSpecializedCooperative;
};

// Two warp groups work on a tile each, one in its epilogue while the other multiplies: more, smaller tiles.
struct Pingpong {
  using Tile = cute::Shape<_128, _128, _64>;
  using Mainloop = gemm::KernelTmaWarpSpecializedPingpong;
  using Epilogue = epilogue::TmaWarpSpecialized;
};

template <class Element, class Schedule>
struct Fused {
  using RowMajor = cutlass::layout::RowMajor;
  using Cluster = cute::Shape<_2, _1, _1>;  // two blocks share each tile of the weight
  static constexpr int kAlignment = 16 / sizeof(Element);

  using Multiply = fusion::Sm90EVT<
      fusion::Sm90Compute<cutlass::multiplies, Element, float, cutlass::FloatRoundStyle::round_to_nearest>,
      fusion::Sm90AccFetch, fusion::Sm90SrcFetch<Element>>;
  using Epilogue = typename epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, typename Schedule::Tile, Cluster,
      epilogue::collective::EpilogueTileAuto, float, float, Element, RowMajor, kAlignment, Element, RowMajor,
      kAlignment, typename Schedule::Epilogue, Multiply>::CollectiveOp;
  using Stages = gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(typename Epilogue::SharedStorage))>;
  using Mainloop = typename gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, RowMajor, kAlignment, Element, RowMajor, kAlignment,
      float, typename Schedule::Tile, Cluster, Stages, typename Schedule::Mainloop>::CollectiveOp;
  using Kernel =
      gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue, gemm::PersistentScheduler>;
  using Gemm = gemm::device::GemmUniversalAdapter<Kernel>;

  static typename Gemm::Arguments arguments(const MatmulMultiply& p) {
    const auto input = cutlass::make_cute_packed_stride(typename Kernel::StrideA{}, {p.m, p.k, 1});
    const auto weight = cutlass::make_cute_packed_stride(typename Kernel::StrideB{}, {p.n, p.k, 1});
    const auto output = cutlass::make_cute_packed_stride(typename Kernel::StrideD{}, {p.m, p.n, 1});
    cutlass::KernelHardwareInfo hardware;
    hardware.device_id = p.device;
    hardware.sm_count = p.multiprocessors;
    return {gemm::GemmUniversalMode::kGemm,
            {p.m, p.n, p.k, 1},
            {static_cast<const Element*>(p.input), input, static_cast<const Element*>(p.weight), weight},
            {{}, static_cast<const Element*>(p.factor), output, static_cast<Element*>(p.output), output},
            hardware};
  }

  static size_t workspace_bytes(const MatmulMultiply& p) { return Gemm::get_workspace_size(arguments(p)); }

  static const char* run(const MatmulMultiply& p, void* workspace, cudaStream_t stream) {
    const auto given = arguments(p);
    cutlass::Status status = Gemm::can_implement(given);
    if (status == cutlass::Status::kSuccess) status = Gemm().run(given, workspace, stream);
    return status == cutlass::Status::kSuccess ? nullptr : cutlass::cutlassGetStatusString(status);
  }
};

int tiles(int size, int tile) { return size / tile + (size % tile != 0); }

template <class F>
auto with_kernel(const MatmulMultiply& p, const F& f) {
  const bool fills = int64_t{tiles(p.m, 128)} * tiles(p.n, 256) >= p.multiprocessors;
  if (p.bfloat16) {
    return fills ? f(Fused<cutlass::bfloat16_t, Cooperative>{}) : f(Fused<cutlass::bfloat16_t, Pingpong>{});
  }
  return fills ? f(Fused<cutlass::half_t, Cooperative>{}) : f(Fused<cutlass::half_t, Pingpong>{});
}

}  // namespace

size_t workspace_bytes(const MatmulMultiply& product) {
  return with_kernel(product, [&](auto kernel) { return kernel.workspace_bytes(product); });
}

const char* run(const MatmulMultiply& product, void* workspace, cudaStream_t stream) {
  return with_kernel(product, [&](auto kernel) { return kernel.run(product, workspace, stream); });
}

}  // namespace zsu::lrp::sm90

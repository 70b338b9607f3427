// The threads of a block as fibers: each runs until it waits for others or is done.
//
// ZSU_EMULATION_ORDER says in which order blocks, warps and lanes take their turns: "forward" (the default), "reverse",
// or a number, which seeds a new order for every turn. A result that depends on it shows a barrier that is missing.
#include <cuda_runtime.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdlib>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace zsu::emulation {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr int kWarp = 32;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bool started;
  jmp_buf resume;
  dim3 index;
  State state;
  Site site;
  uint64_t value;  // what it brings to a meeting, and what it takes from it
  int distance;
};

std::mutex one_launch;
std::vector<Fiber> fibers;
Fiber* current;
jmp_buf scheduler;
const std::function<void()>* kernel_of_launch;
bool trapped;

// A fiber begins by makecontext; from then on setjmp and longjmp switch, which need no system calls.
void leave() {
  if (_setjmp(current->resume) == 0) _longjmp(scheduler, 1);
}

void begin() {
  (*kernel_of_launch)();
  current->state = State::kDone;
  _longjmp(scheduler, 1);
}

void run(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.index;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, begin, 0);
  setcontext(&context);
}

bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

// Whether fibers first to last - 1 (of those, if `all`, every one) wait in `state` at one site.
bool complete(size_t first, size_t last, State state, bool all) {
  const Fiber* one = nullptr;
  for (size_t i = first; i < last; ++i) {
    if (fibers[i].state == State::kDone && !all) continue;
    if (fibers[i].state != state || (one && !same_site(one->site, fibers[i].site))) return false;
    one = &fibers[i];
  }
  return one;
}

bool release_warp(size_t first) {
  if (!complete(first, first + kWarp, State::kAtWarp, true)) return false;
  uint64_t values[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) values[lane] = fibers[first + lane].value;
  for (int lane = 0; lane < kWarp; ++lane) {
    Fiber& fiber = fibers[first + lane];
    fiber.value = values[lane ^ fiber.distance];
    fiber.state = State::kReady;
  }
  return true;
}

bool release_block(size_t threads) {
  if (!complete(0, threads, State::kAtBlock, false)) return false;
  uint64_t sum = 0;
  for (size_t i = 0; i < threads; ++i) sum += fibers[i].state == State::kAtBlock ? fibers[i].value : 0;
  for (size_t i = 0; i < threads; ++i) {
    if (fibers[i].state == State::kDone) continue;
    fibers[i].value = sum;
    fibers[i].state = State::kReady;
  }
  return true;
}

[[noreturn]] void report_deadlock(size_t threads) {
  std::string text = "threads wait for each other in vain:";
  for (size_t i = 0; i < threads; ++i) {
    const Fiber& fiber = fibers[i];
    if (i > 0 && fiber.state == fibers[i - 1].state && same_site(fiber.site, fibers[i - 1].site)) continue;
    text += "\n  from thread " + std::to_string(i) + " on: ";
    text += fiber.state == State::kDone ? "done" : fiber.site.file_name() + (":" + std::to_string(fiber.site.line()));
  }
  throw std::runtime_error(text);
}

class Order {
 public:
  explicit Order(size_t n) : indices_(n) {
    std::iota(indices_.begin(), indices_.end(), 0);
    const char* wanted = std::getenv("ZSU_EMULATION_ORDER");
    const std::string name = wanted ? wanted : "forward";
    if (name == "reverse") std::reverse(indices_.begin(), indices_.end());
    if (name != "forward" && name != "reverse") generator_.seed(std::stoul(name)), shuffles_ = true;
  }

  // The order of the next turn.
  const std::vector<size_t>& next() {
    if (shuffles_) std::shuffle(indices_.begin(), indices_.end(), generator_);
    return indices_;
  }

 private:
  std::vector<size_t> indices_;
  std::mt19937 generator_;
  bool shuffles_ = false;
};

void run_block(size_t threads, Order& warps, Order& lanes) {
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.started = false;
    fiber.state = State::kReady;
    fiber.index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
  }
  do {
    // Each warp as far as it gets alone: so far ahead of the others as barriers let it.
    for (const size_t warp : warps.next()) {
      do {
        for (const size_t lane : lanes.next()) {
          Fiber& fiber = fibers[warp * kWarp + lane];
          if (fiber.state == State::kReady) run(fiber);
          if (trapped) throw std::runtime_error("a kernel has trapped");
        }
      } while (release_warp(warp * kWarp));
    }
    if (complete(0, threads, State::kDone, true)) return;
  } while (release_block(threads));
  report_deadlock(threads);
}

}  // namespace

void launch(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  const std::lock_guard lock(one_launch);
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads % kWarp != 0) throw std::runtime_error("a block is not a number of warps");
  while (fibers.size() < threads) fibers.emplace_back();
  kernel_of_launch = &kernel, gridDim = grid, blockDim = block, trapped = false;
  Order blocks(size_t{grid.x} * grid.y * grid.z), warps(threads / kWarp), lanes(kWarp);
  for (const size_t i : blocks.next()) {
    blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / (size_t{grid.x} * grid.y));
    run_block(threads, warps, lanes);
  }
}

int meet_block(int value, Site site) {
  current->state = State::kAtBlock, current->site = site, current->value = value;
  leave();
  return static_cast<int>(current->value);
}

uint64_t meet_warp(uint64_t value, int distance, Site site) {
  current->state = State::kAtWarp, current->site = site, current->value = value, current->distance = distance;
  leave();
  return current->value;
}

void trap() {
  trapped = true;
  _longjmp(scheduler, 1);
}

}  // namespace zsu::emulation

// What the CPU build of torch does not have.
extern "C" {
int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
int32_t torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool, char** message) {
  *message = nullptr;
  return 0;
}
void torch_c10_cuda_free_error_msg(char*) {}
}

// Stands in for a profiler: NVTX loads it (NVTX_INJECTION64_PATH), and it writes how often each range began, and the end of ranges, to
// $MOEKV_NVTX_LOG.
#include <nvtx3/nvToolsExt.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace {

struct Tally {
  std::map<std::string, long> begun;
  long ended = 0, depth = 0;
  ~Tally() {
    const char* path = std::getenv("MOEKV_NVTX_LOG");
    std::FILE* file = path == nullptr ? nullptr : std::fopen(path, "w");
    if (file == nullptr) return;
    for (const auto& [name, n] : begun) std::fprintf(file, "%s %ld\n", name.c_str(), n);
    std::fprintf(file, "(ended) %ld\n", ended);
    std::fclose(file);
  }
};
Tally& tally() {
  static Tally all;
  return all;
}

int push(const char* name) {
  ++tally().begun[name];
  return static_cast<int>(tally().depth++);
}
int pop() {
  ++tally().ended;
  return static_cast<int>(--tally().depth);
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (callbacks == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &size) == 0) return 0;
  (void)tally();
  *table[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(push);
  *table[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}

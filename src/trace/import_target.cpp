// The native file as target of an import.
#include "trace/import_target.hpp"

namespace moekv {
namespace {

class NativeTarget final : public TraceTarget {
 public:
  explicit NativeTarget(std::string path) : path_(std::move(path)) {}
  void open(const WriterSpec& spec) override { writer_ = std::make_unique<NativeWriter>(path_, spec); }
  void begin_request(const RequestInfo& request, std::span<const std::uint64_t> hash_ids) override { writer_->begin_request(request, hash_ids); }
  void append(const TokenBlock& block) override { writer_->append(block); }
  void note(const std::string& line) override { writer_->note(line); }
  void finish(const std::vector<std::string>& domain_names) override {
    writer_->name_domains(domain_names);
    writer_->finish();
  }

 private:
  std::string path_;
  std::unique_ptr<NativeWriter> writer_;
};

}  // namespace

std::unique_ptr<TraceTarget> make_native_target(const std::string& path) { return std::make_unique<NativeTarget>(path); }

}  // namespace moekv

// Combinations of keys with a model in the loop.
#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "config/names.hpp"
#include "config/schema.hpp"
#include "config/validate.hpp"
#include "model/model_file.hpp"

namespace moekv {
namespace {

/// Keys of the shape that are given beside the file say the same as it does.
void check_shape(Checks& c) {
  std::optional<ModelFile> file;
  try {
    file.emplace(c.spec().model.path);
  } catch (const UserError&) {
    return;  // told when the key was read
  }
  RunSpec own;
  own.model = shape_of(file->spec(), c.spec().model.path);
  for (const Key& key : schema()) {
    if (!key.path.starts_with("model.") || !key.written || !c.given(key.path)) continue;
    if (key.path == "model.name" || key.path == "model.path" || key.path == "model.gate.n_shared") continue;
    const std::string given = key.write(c.spec()), read = key.write(own);
    if (given != read)
      c.refuse({key.path.c_str(), "model.path"}, fmt::format("is {}, but the model file says {}", given, read),
               "remove it: model.path gives the shape");
  }
}

void check_tokens(Checks& c) {
  const RunSpec& s = c.spec();
  for (const char* other : {"trace.path", "trace.synthetic"}) {
    if (c.given(other))
      c.refuse({other, "model.path"}, "a model in the loop processes tokens and makes its own routing, q, k and v",
               fmt::format("remove it ({}=null on the command line)", other));
  }
  if (!c.given("trace.tokens"))
    return c.refuse({"trace.tokens", "model.path"}, "missing required key",
                    "name the file of token sequences that the model of model.path is scored on");
  std::error_code ec;
  if (!std::filesystem::is_regular_file(s.trace.tokens, ec))
    c.refuse({"trace.tokens"}, fmt::format("no such file: {}", s.trace.tokens), "check the path");
  if (!s.trace.layers.empty()) c.refuse({"trace.layers", "model.path"}, "a model needs the attention of all its layers", "remove it");
  if (s.batch.load == LoadKind::arrivals)
    c.refuse({"batch.load", "trace.tokens"}, "load arrivals needs arrival times, and a token file has none", "use load: concurrency(n)");
}

}  // namespace

void check_score(Checks& c) {
  const RunSpec& s = c.spec();
  if (!c.given("model.path")) {
    if (c.given("trace.tokens"))
      c.refuse({"trace.tokens", "model"}, "tokens are for a model in the loop, and none is given", "give model.path, or replay a trace");
    if (c.given("score")) c.refuse({"score"}, "belongs to a model in the loop, and none is given", "give model.path and trace.tokens, or remove it");
    return;
  }
  check_tokens(c);
  if (!s.model.path.empty()) check_shape(c);
  if (s.backend == "count")
    c.refuse({"backend", "model.path"}, "a model needs attention outputs, and backend count has no payload", "use backend: host");
  if (s.routing.key == RoutingKey::same_layer)
    c.refuse({"routing.key", "model.path"}, "same_layer is acausal: a layer's experts are known after its attention",
             "use previous_layer, previous_token or query_router");
  if (s.placement.map == ShardMap::eplb && (s.placement.load == LoadSource::trace || s.placement.load == LoadSource::history))
    c.refuse({"placement.load", "placement.map", "model.path"},
             fmt::format("load {} counts recorded choices, and a model makes its own", enum_name(s.placement.load)),
             "use load: window with placement.replan_every_steps, or load: file");
  if (s.payload.qkv != QkvKind::automatic) c.refuse({"payload.qkv", "model.path"}, "the model makes q, k and v", "remove it");
}

}  // namespace moekv

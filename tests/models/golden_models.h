// Parity with the reference implementation: files of golden numbers, with all layers' outputs, and gradients of all
// weights and inputs; tests/golden/README.md describes their form. Any device, any type.
#pragma once

#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <regex>

#include "kernels/core/error.h"
#include "kernels/loss/loss.h"
#include "models/encoder_processor_decoder.h"
#include "models/mapper.h"
#include "models/processor.h"
#include "tests/models/place.h"
#include "tests/support/tolerances.h"

namespace boreas::test::golden {

namespace fs = std::filesystem;
using nlohmann::json;

// --- files -----------------------------------------------------------------------------------------------------------

struct Array {
  std::vector<int64_t> shape;
  std::vector<double> values;

  int64_t last() const { return shape.back(); }
  int64_t rows() const { return int64_t(values.size()) / last(); }
};

struct GoldenFile {
  std::string name;
  json config;
  std::string meta;                     // the case in plain words
  std::map<std::string, Array> arrays;  // by path: "weights/proc.lin_key.bias"

  bool has(const std::string& path) const { return arrays.contains(path); }
  const Array& at(const std::string& path) const {
    const auto found = arrays.find(path);
    BOREAS_CHECK(found != arrays.end(), io, "{} has no array '{}'", name, path);
    return found->second;
  }
  std::vector<std::string> names(const std::string& group) const {
    std::vector<std::string> names;
    for (const auto& [path, array] : arrays)
      if (path.starts_with(group + "/")) names.push_back(path.substr(group.size() + 1));
    return names;
  }
  std::vector<int32_t> ids(const std::string& path) const {
    const std::vector<double>& values = at(path).values;
    return {values.begin(), values.end()};
  }
  bool option(const char* key) const { return config.value(key, false); }
};

inline std::string read_text_attribute(hid_t file, const char* name) {
  const hid_t attribute = H5Aopen(file, name, H5P_DEFAULT), type = H5Aget_type(attribute);
  std::string text;
  if (H5Tis_variable_str(type) > 0) {
    char* variable = nullptr;
    H5Aread(attribute, type, &variable);
    if (variable) text = variable;
    H5free_memory(variable);
  } else {
    text.resize(H5Tget_size(type));
    H5Aread(attribute, type, text.data());
  }
  H5Tclose(type);
  H5Aclose(attribute);
  return text;
}

inline Array read_array(hid_t set) {
  const hid_t space = H5Dget_space(set);
  Array array;
  array.shape.resize(size_t(std::max(0, H5Sget_simple_extent_ndims(space))));
  std::vector<hsize_t> extents(array.shape.size());
  H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  std::copy(extents.begin(), extents.end(), array.shape.begin());
  array.values.resize(size_t(H5Sget_simple_extent_npoints(space)));
  H5Sclose(space);
  BOREAS_CHECK(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, array.values.data()) >= 0, corrupt_data,
               "an array cannot be read");
  return array;
}

inline void collect(hid_t group, const std::string& prefix, std::map<std::string, Array>& arrays) {
  H5G_info_t info;
  H5Gget_info(group, &info);
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[512];
    H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
    const hid_t object = H5Oopen(group, name, H5P_DEFAULT);
    if (H5Iget_type(object) == H5I_GROUP) collect(object, prefix + name + "/", arrays);
    if (H5Iget_type(object) == H5I_DATASET) arrays.emplace(prefix + name, read_array(object));
    H5Oclose(object);
  }
}

// Name, config and description, without the arrays.
inline GoldenFile read_header(const std::string& path) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  BOREAS_CHECK(file >= 0, io, "{} is not an HDF5 file", path);
  GoldenFile golden{.name = fs::path(path).stem(), .config = {}, .meta = {}, .arrays = {}};
  if (H5Aexists(file, "config") > 0) golden.config = json::parse(read_text_attribute(file, "config"));
  if (H5Aexists(file, "meta") > 0) golden.meta = read_text_attribute(file, "meta");
  H5Fclose(file);
  return golden;
}

inline GoldenFile read_golden(const std::string& path) {
  GoldenFile golden = read_header(path);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  collect(file, "", golden.arrays);
  H5Fclose(file);
  return golden;
}

// --- what a file is --------------------------------------------------------------------------------------------------

enum class Kind { mapper, graph_processor, window_processor, full, losses, unsupported };

struct Classified {
  Kind kind = Kind::unsupported;
  std::string reason;  // why it is skipped
};

inline Classified classify(const json& config) {
  const auto has = [&](const char* key) {
    return config.is_object() && config.contains(key) && !config[key].is_null();
  };
  if (!config.is_object())
    return {Kind::unsupported, "it has no attribute 'config' and is not in the form of golden files"};
  if (has("mapper")) {
    if (config["mapper"] == "gnn" || config["proc"] == "gnn")
      return {Kind::unsupported, "GNN models are not implemented"};
    if (has("noise")) return {Kind::unsupported, "noise-conditioned ensemble models are not implemented"};
    return {Kind::full, ""};
  }
  if (has("mlp_extra_layers")) return {Kind::unsupported, "GNN mappers and processors are not implemented"};
  if (has("in_channels_src")) return {Kind::mapper, ""};
  if (has("num_layers")) return {has("edge_dim") ? Kind::graph_processor : Kind::window_processor, ""};
  if (has("condition_shape")) return {Kind::unsupported, "conditional layer norm is not implemented"};
  if (has("channels") && has("hidden")) return {Kind::unsupported, "noise injection is not implemented"};
  if (has("shape")) return {Kind::losses, ""};
  return {Kind::unsupported, "its config names no known kind: " + config.dump()};
}

// --- comparison ------------------------------------------------------------------------------------------------------

struct Worst {
  double error = 0;
  std::string where;
};

class Comparison {
 public:
  explicit Comparison(const Precision& precision) : precision_(precision) {}

  void forward(const std::string& what, std::span<const double> actual, std::span<const double> expected) {
    compare(what, actual, expected, 0, precision_.forward, forward_);
  }
  void gradient(const std::string& what, std::span<const double> actual, std::span<const double> expected,
                double floor = 0) {
    compare(what, actual, expected, floor, precision_.gradient, gradient_);
  }
  void report(const std::string& name) const {
    fmt::print("{:32} forward {:.1e} ({}), gradients {:.1e} ({})\n", name, forward_.error, forward_.where,
               gradient_.error, gradient_.where);
  }

 private:
  static void compare(const std::string& what, std::span<const double> actual, std::span<const double> expected,
                      double floor, double tolerance, Worst& worst) {
    const double error = relative_error(actual, expected, floor);
    EXPECT_LE(error, tolerance) << what;
    if (!(error <= worst.error)) worst = {error, what};
  }

  Precision precision_;
  Worst forward_, gradient_;
};

inline double norm(std::span<const double> values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
}

// --- weights ---------------------------------------------------------------------------------------------------------

inline constexpr std::string_view kSecondName = "layer_norm_attention_dest.", kFirstName = "layer_norm_attention.";

inline std::string first_name(std::string name) {
  if (const size_t at = name.find(kSecondName); at != std::string::npos)
    name.replace(at, kSecondName.size(), kFirstName);
  return name;
}

// Sets every array of the store from the file, and fails for any array of either that the other lacks.
inline void load_weights(const GoldenFile& golden, ParameterStore& store) {
  std::map<std::string, Tensor> values;
  store.for_each([&](const std::string& name, Tensor value, Tensor) { values.emplace(name, value); });
  store.for_each_constant([&](const std::string& name, Tensor value) { values.emplace(name, value); });
  std::map<std::string, std::string> set_from;
  for (const auto& [name, value] : values) set_from[name] = "";
  for (const std::string& name : golden.names("weights")) {
    const Array& array = golden.at("weights/" + name);
    if (name.ends_with("trainable_layout_version")) {
      EXPECT_EQ(array.values, std::vector<double>{1}) << name;
      continue;
    }
    const auto target = values.find(first_name(name));
    if (target == values.end()) {
      ADD_FAILURE() << "no parameter takes weights/" << name;
      continue;
    }
    std::vector<int64_t> shape;
    for (int i = 0; i < target->second.rank(); ++i) shape.push_back(target->second.size(i));
    EXPECT_EQ(shape, array.shape) << name;
    if (shape != array.shape) continue;
    std::string& from = set_from[target->first];
    if (!from.empty()) {
      EXPECT_EQ(golden.at("weights/" + from).values, array.values) << name << " differs from " << from;
      continue;
    }
    from = name;
    fill_from_host(target->second, array.values);
  }
  store.round_masters();
  for (const auto& [name, from] : set_from) EXPECT_NE(from, "") << "weights/" << name << " is not in the file";
}

inline void compare_weight_gradients(const GoldenFile& golden, const Place& place, const ParameterStore& store,
                                     Comparison& comparison) {
  std::map<std::string, Tensor> gradients;
  store.for_each([&](const std::string& name, Tensor, Tensor grad) { gradients.emplace(name, grad); });
  for (const std::string& name : golden.names("grad_weights")) {
    const auto found = gradients.find(first_name(name));
    if (found == gradients.end()) {
      ADD_FAILURE() << "no parameter has grad_weights/" << name;
      continue;
    }
    double floor = 0;
    if (name.ends_with(".bias")) {
      const std::string weight = "grad_weights/" + name.substr(0, name.size() - 4) + "weight";
      if (golden.has(weight)) floor = norm(golden.at(weight).values);
    }
    comparison.gradient("d " + name, place.values(found->second), golden.at("grad_weights/" + name).values, floor);
  }
  for (const auto& [name, gradient] : gradients)
    EXPECT_TRUE(golden.has("grad_weights/" + name)) << "grad_weights/" << name << " is not in the file";
}

// --- running a layer -------------------------------------------------------------------------------------------------

struct Pass {
  int64_t num_chunks;
  Recompute recompute;
};
inline constexpr Pass kPasses[] = {{1, Recompute::none}, {2, Recompute::block}};

inline Tensor input(Place& place, DType dtype, const GoldenFile& golden, const std::string& path) {
  const Array& array = golden.at(path);
  return place.of(dtype, {array.rows(), array.last()}, array.values);
}

inline Graph graph_of(const GoldenFile& golden, const std::string& group, int64_t num_src, int64_t num_dst) {
  const SortedEdges edges =
      sort_by_destination(num_src, num_dst, golden.ids(group + "/src"), golden.ids(group + "/dst"));
  for (size_t m = 0; m < edges.permutation.size(); ++m)
    EXPECT_EQ(edges.permutation[m], int64_t(m)) << "edges are not sorted";
  return Graph::from_sorted(num_src, num_dst, edges.dst_ptr, edges.src_of);
}

// Options that mappers and processors share.
inline ModelConfig model_config(const json& config, const Pass& pass) {
  ModelConfig model;
  model.num_heads = config["num_heads"];
  model.mlp_ratio = config["mlp_hidden_ratio"];
  model.qk_norm = config.value("qk_norm", false);
  model.edge_pre_mlp = config.value("edge_pre_mlp", false);
  if (config.contains("attn_channels") && !config["attn_channels"].is_null())
    model.attention_channels = config["attn_channels"];
  const std::string mlp = config.value("mlp_implementation", "mlp");
  bool known = false;
  for (const auto& [kind, name] : EnumNames<MlpKind>::values)
    if (name == mlp) {
      model.mlp = kind;
      known = true;
    }
  EXPECT_TRUE(known) << "mlp_implementation " << mlp;
  model.recompute = pass.recompute;
  model.encoder.num_chunks = model.decoder.num_chunks = pass.num_chunks;
  return model;
}

inline void check_mapper(const GoldenFile& golden, const Precision& precision, const Pass& pass,
                         Comparison& comparison) {
  const json& config = golden.config;
  const bool is_encoder = config["out_channels_dst"].is_null();
  ModelConfig model = model_config(config, pass);
  model.num_channels = config["hidden_dim"];

  Place place(precision);
  const DType dtype = place.dtype, wide = place.wide;
  const Tensor x_src = input(place, dtype, golden, "inputs/x_src"), x_dst = input(place, dtype, golden, "inputs/x_dst");
  const Tensor edges = input(place, dtype, golden, "inputs/edge_attr");
  ParameterStore store(dtype, place.ctx.device());
  const Mapper layer(store, "", BlockShape::of(model),
                     {.kind = is_encoder ? Mapper::Kind::encoder : Mapper::Kind::decoder,
                      .src_channels = x_src.cols(),
                      .dst_channels = x_dst.cols(),
                      .out_channels = is_encoder ? 0 : config["out_channels_dst"].get<int64_t>(),
                      .edge_channels = edges.cols(),
                      .num_chunks = pass.num_chunks,
                      .recompute = pass.recompute != Recompute::none},
                     make_rank_graph(graph_of(golden, "graph", x_src.rows(), x_dst.rows())));
  store.materialise(1);
  load_weights(golden, store);

  const DType outer = is_encoder ? dtype : wide;
  const Tensor g = input(place, outer, golden, "upstream/x_dst"), y = place.output(outer, g.shape());
  const Mapper::Inputs in{.x_src = x_src, .x_dst = x_dst, .edge_attributes = edges};
  const Mapper::Inputs d_in{.x_src = place.filled(is_encoder ? wide : dtype, x_src.shape(), 0),
                            .x_dst = place.filled(wide, x_dst.shape(), 0),
                            .edge_attributes = place.filled(wide, edges.shape(), 0)};
  Mapper::Saved saved;
  layer.forward(place.ctx, in, {.x_dst = y}, &saved);
  comparison.forward("x_dst", place.values(y), golden.at("outputs/x_dst").values);
  layer.backward(place.ctx, in, saved, {.x_dst = g}, d_in);
  comparison.gradient("d x_src", place.values(d_in.x_src), golden.at("grad_inputs/x_src").values);
  comparison.gradient("d x_dst", place.values(d_in.x_dst), golden.at("grad_inputs/x_dst").values);
  comparison.gradient("d edge_attr", place.values(d_in.edge_attributes), golden.at("grad_inputs/edge_attr").values);
  compare_weight_gradients(golden, place, store, comparison);
}

// Windowed processors: the sequence length stands in the description only.
inline int64_t sequence_length(const GoldenFile& golden, int64_t num_rows) {
  std::smatch match;
  return std::regex_search(golden.meta, match, std::regex("sequence of ([0-9]+) nodes")) ? std::stoll(match[1])
                                                                                         : num_rows;
}

inline void check_processor(const GoldenFile& golden, const Precision& precision, const Pass& pass,
                            Comparison& comparison) {
  const json& config = golden.config;
  ModelConfig model = model_config(config, pass);
  model.num_channels = config["num_channels"];
  const int64_t num_layers = config["num_layers"];
  const bool recompute = pass.recompute != Recompute::none;

  Place place(precision);
  const DType dtype = place.dtype, wide = place.wide;
  const Tensor x = input(place, dtype, golden, "inputs/x");
  ParameterStore store(dtype, place.ctx.device());
  std::optional<Processor> layer;
  Processor::Inputs in{.x = x, .edge_attributes = {}}, d_in{.x = place.output(dtype, x.shape()), .edge_attributes = {}};
  if (golden.has("graph/src")) {
    in.edge_attributes = input(place, dtype, golden, "inputs/edge_attr");
    d_in.edge_attributes = place.filled(wide, in.edge_attributes.shape(), 0);
    layer.emplace(store, "", BlockShape::of(model), num_layers, recompute,
                  make_rank_graph(graph_of(golden, "graph", x.rows(), x.rows())), in.edge_attributes.cols());
  } else {
    const int64_t window = config["window_size"].is_null() ? -1 : config["window_size"].get<int64_t>();
    layer.emplace(store, "", BlockShape::of(model), num_layers, recompute,
                  RowExchange::local(sequence_length(golden, x.rows())), window);
  }
  store.materialise(1);
  load_weights(golden, store);

  const Tensor g = input(place, dtype, golden, "upstream/x"), y = place.output(dtype, g.shape());
  Processor::Saved saved;
  layer->forward(place.ctx, in, {.y = y}, &saved);
  comparison.forward("x", place.values(y), golden.at("outputs/x").values);
  layer->backward(place.ctx, in, saved, {.y = g}, d_in);
  comparison.gradient("d x", place.values(d_in.x), golden.at("grad_inputs/x").values);
  if (d_in.edge_attributes)
    comparison.gradient("d edge_attr", place.values(d_in.edge_attributes), golden.at("grad_inputs/edge_attr").values);
  compare_weight_gradients(golden, place, store, comparison);
}

// --- whole models ----------------------------------------------------------------------------------------------------

inline EdgeSet edge_set(const GoldenFile& golden, const std::string& group, const std::string& src,
                        const std::string& dst) {
  const Array& attributes = golden.at(group + "/edge_attr");
  return {.src = src,
          .dst = dst,
          .src_of = golden.ids(group + "/src"),
          .dst_of = golden.ids(group + "/dst"),
          .attribute_names = {"edge_attr"},
          .attribute_widths = {int(attributes.last())},
          .attributes = attributes.values};
}

inline NodeSet node_set(const GoldenFile& golden, const std::string& name) {
  NodeSet nodes{.name = name, .latitudes = {}, .longitudes = {}, .attributes = {}};
  const Array& latlon = golden.at("graph/" + name + "/latlon");
  for (int64_t i = 0; i < latlon.rows(); ++i) {
    nodes.latitudes.push_back(latlon.values[size_t(2 * i)]);
    nodes.longitudes.push_back(latlon.values[size_t(2 * i + 1)]);
  }
  return nodes;
}

inline GraphData graph_data(const GoldenFile& golden) {
  GraphData graph;
  graph.nodes = {node_set(golden, "data"), node_set(golden, "hidden")};
  graph.edges.push_back(edge_set(golden, "graph/encoder", "data", "hidden"));
  if (golden.has("graph/processor/src")) graph.edges.push_back(edge_set(golden, "graph/processor", "hidden", "hidden"));
  graph.edges.push_back(edge_set(golden, "graph/decoder", "hidden", "data"));
  return graph;
}

// (batch, time, ensemble, node, variable) to rows (batch, ensemble, node) and columns (time, variable).
inline Array rows_of(const Array& x) {
  const int64_t B = x.shape[0], T = x.shape[1], E = x.shape[2], N = x.shape[3], V = x.shape[4];
  Array rows{{B * E * N, T * V}, std::vector<double>(x.values.size())};
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t)
      for (int64_t e = 0; e < E; ++e)
        for (int64_t n = 0; n < N; ++n)
          for (int64_t v = 0; v < V; ++v)
            rows.values[size_t((((b * E + e) * N + n) * T + t) * V + v)] =
                x.values[size_t((((b * T + t) * E + e) * N + n) * V + v)];
  return rows;
}

inline Tensor rows_input(Place& place, DType dtype, const GoldenFile& golden, const std::string& path) {
  const Array rows = rows_of(golden.at(path));
  return place.of(dtype, {rows.rows(), rows.last()}, rows.values);
}

inline void check_full(const GoldenFile& golden, const Precision& precision, const Pass& pass, Comparison& comparison) {
  const json& config = golden.config;
  int64_t num_layers = 0;
  for (const std::string& name : golden.names("weights"))
    while (name.starts_with(fmt::format("processor.proc.{}.", num_layers))) ++num_layers;
  const Array& hidden_weight = golden.at("weights/encoder.data.proc.node_dst_mlp.mlp.0.weight");

  ModelConfig model;
  model.num_channels = config["C"];
  model.num_heads = config["H"];
  model.mlp_ratio = double(hidden_weight.rows()) / double(hidden_weight.last());
  model.qk_norm = config.value("qk_norm", false);
  model.edge_pre_mlp = golden.has("weights/encoder.data.proc.edge_pre_mlp.0.weight");
  model.recompute = pass.recompute;
  model.encoder.num_chunks = model.decoder.num_chunks = pass.num_chunks;
  model.processor.kind = config["proc"] == "tf" ? ProcessorKind::transformer : ProcessorKind::graph_transformer;
  model.processor.num_layers = num_layers;
  model.processor.window = config["window"].is_null() ? -1 : config["window"].get<int64_t>();
  const auto width = [&](const std::string& name) {
    return golden.has("weights/" + name) ? golden.at("weights/" + name).last() : 0;
  };
  model.trainable = {.data = width("node_attributes.trainable_tensors.data.trainable"),
                     .hidden = width("node_attributes.trainable_tensors.hidden.trainable"),
                     .encoder = width("encoder_graph_provider.data.trainable.trainable"),
                     .processor = width("processor_graph_provider.trainable.trainable"),
                     .decoder = width("decoder_graph_provider.data.trainable.trainable")};

  const std::vector<std::string> output_names = config["names"]["output"];
  ModelShape shape;
  shape.num_input_steps = golden.at("inputs/x").shape[1];
  shape.num_output_steps = config["steps_out"];
  shape.num_inputs = golden.at("inputs/x").last();
  shape.num_outputs = golden.at("outputs/y").last();
  shape.input_prognostic = golden.ids("index/input_prognostic");
  shape.output_prognostic = golden.ids("index/output_prognostic");
  if (golden.option("bounded")) {
    const auto column = std::find(output_names.begin(), output_names.end(), "d0") - output_names.begin();
    shape.boundings.push_back({.kind = BoundingKind::relu, .columns = {int32_t(column)}});
  }

  Place place(precision);
  const DType wide = place.wide;
  ParameterStore store(place.dtype, place.ctx.device());
  const EncoderProcessorDecoder layer(model, shape, graph_data(golden), store);
  store.materialise(1);
  load_weights(golden, store);

  const Tensor x = rows_input(place, wide, golden, "inputs/x"), g = rows_input(place, wide, golden, "upstream/y");
  const Tensor y = place.output(wide, g.shape()), d_x = place.output(wide, x.shape());
  EncoderProcessorDecoder::Saved saved;
  layer.forward(place.ctx, {.x = x}, {.y = y}, &saved);
  comparison.forward("y", place.values(y), rows_of(golden.at("outputs/y")).values);
  if (saved.latent) comparison.forward("latent", place.values(saved.latent), golden.at("intermediate/encoder").values);
  if (saved.processed) {
    std::vector<double> processed = golden.at("intermediate/processor").values;
    const std::vector<double>& latent = golden.at("intermediate/encoder").values;
    std::transform(processed.begin(), processed.end(), latent.begin(), processed.begin(), std::plus());
    comparison.forward("processed", place.values(saved.processed), processed);
  }
  layer.backward(place.ctx, {.x = x}, saved, {.y = g}, {.x = d_x});
  comparison.gradient("d x", place.values(d_x), rows_of(golden.at("grad_inputs/x")).values);
  compare_weight_gradients(golden, place, store, comparison);
}

// --- losses ----------------------------------------------------------------------------------------------------------

struct LossCase {
  std::string name;
  int64_t num_items, num_members;
  Tensor prediction, target, node_weights, column_weights, gradient_weights;  // the last include the upstream gradient
  bool per_variable, ignore_nans;
  double alpha;
};

// Runs items [begin, end) and returns the loss of each column; the gradient goes to d_prediction.
inline std::vector<double> run_loss(Place& place, const LossCase& c, Range items, const Tensor& d_prediction,
                                    double scale) {
  const auto rows = [&](const Tensor& x) {
    const int64_t per_item = x.rows() / c.num_items;
    return x.slice({items.begin * per_item, items.end * per_item});
  };
  const auto run_with = [&](const Tensor& column_weights, const Tensor& loss, const Tensor& d) {
    if (c.num_members > 1)
      run(place.ctx, CrpsLoss{.prediction = rows(c.prediction),
                              .target = rows(c.target),
                              .node_weights = c.node_weights,
                              .column_weights = column_weights,
                              .num_items = items.size(),
                              .num_members = c.num_members,
                              .alpha = c.alpha,
                              .ignore_nans = c.ignore_nans,
                              .loss = loss,
                              .d_prediction = d,
                              .loss_scale = scale});
    else
      run(place.ctx, WeightedLoss{.kind = LossKind::mse,
                                  .prediction = rows(c.prediction),
                                  .target = rows(c.target),
                                  .node_weights = c.node_weights,
                                  .column_weights = column_weights,
                                  .num_items = items.size(),
                                  .ignore_nans = c.ignore_nans,
                                  .loss = loss,
                                  .d_prediction = d,
                                  .loss_scale = scale});
  };
  const Tensor columns = place.output(c.column_weights.dtype(), {c.column_weights.size()});
  const Tensor total = place.output(c.column_weights.dtype(), {1});
  run_with(c.column_weights, columns, {});
  run_with(c.gradient_weights, total, rows(d_prediction));
  return place.values(columns);
}

inline void check_loss_case(const GoldenFile& golden, const std::string& name, const Precision& precision,
                            Comparison& comparison) {
  const Array &prediction = golden.at(name + "/pred"), &expected = golden.at(name + "/loss"),
              &upstream = golden.at(name + "/upstream");
  const std::vector<double>&grid = golden.at("scalers/grid").values, &variable = golden.at("scalers/variable").values;
  const auto V = variable.size(), T = size_t(prediction.shape[1]);
  const bool per_variable = expected.values.size() > 1;
  std::vector<double> columns, gradient_columns;
  for (size_t t = 0; t < T; ++t)
    for (size_t v = 0; v < V; ++v) {
      columns.push_back(variable[v] / (per_variable || name == "mse_sum" ? 1.0 : double(V)));
      gradient_columns.push_back(columns.back() * (per_variable ? upstream.values[v] : upstream.values[0]));
    }

  Place place(precision);
  const DType dtype = place.dtype, wide = place.wide;
  const LossCase c{.name = name,
                   .num_items = prediction.shape[0],
                   .num_members = prediction.shape[2],
                   .prediction = rows_input(place, dtype, golden, name + "/pred"),
                   .target = rows_input(place, dtype, golden, name + "/target"),
                   .node_weights = place.of(wide, {int64_t(grid.size())}, grid),
                   .column_weights = place.of(wide, {int64_t(columns.size())}, columns),
                   .gradient_weights = place.of(wide, {int64_t(columns.size())}, gradient_columns),
                   .per_variable = per_variable,
                   .ignore_nans = name.ends_with("_nan"),
                   .alpha = name.find("_fair_naive") != std::string::npos ? 1.0 : 0.95};
  const Tensor d_prediction = place.output(dtype, c.prediction.shape());

  std::vector<double> by_column(columns.size(), 0.0);
  const auto add = [&](Range items, double scale) {
    const std::vector<double> part = run_loss(place, c, items, d_prediction, scale);
    for (size_t w = 0; w < part.size(); ++w) by_column[w] += scale * part[w];
  };
  if (golden.has(name + "/weights")) {  // weights per sample: each is its own call
    const std::vector<double>& samples = golden.at(name + "/weights").values;
    for (size_t b = 0; b < samples.size(); ++b) add({int64_t(b), int64_t(b) + 1}, samples[b] / double(samples.size()));
  } else {
    add({0, c.num_items}, 1);
  }
  std::vector<double> loss(per_variable ? V : 1, 0.0);
  for (size_t w = 0; w < by_column.size(); ++w) loss[per_variable ? w % V : 0] += by_column[w];
  comparison.forward(name, loss, expected.values);
  comparison.gradient("d " + name, place.values(d_prediction), rows_of(golden.at(name + "/grad_pred")).values);
}

inline void check_losses(const GoldenFile& golden, const Precision& precision, Comparison& comparison) {
  for (const auto& [path, array] : golden.arrays)
    if (path.ends_with("/pred")) check_loss_case(golden, path.substr(0, path.size() - 5), precision, comparison);
}

// --- tests -----------------------------------------------------------------------------------------------------------

inline void check_file(const std::string& path, const Precision& precision) {
  const Classified classified = classify(read_header(path).config);
  if (classified.kind == Kind::unsupported)
    GTEST_SKIP() << fs::path(path).filename().string() << ": " << classified.reason;
  const GoldenFile golden = read_golden(path);
  Comparison comparison(precision);
  if (classified.kind == Kind::losses) {
    check_losses(golden, precision, comparison);
  } else {
    for (const Pass& pass : kPasses) {
      SCOPED_TRACE(fmt::format("num_chunks {}, recompute {}", pass.num_chunks, to_string(pass.recompute)));
      switch (classified.kind) {
        case Kind::mapper:
          check_mapper(golden, precision, pass, comparison);
          break;
        case Kind::graph_processor:
        case Kind::window_processor:
          check_processor(golden, precision, pass, comparison);
          break;
        default:
          check_full(golden, precision, pass, comparison);
      }
    }
  }
  comparison.report(fmt::format("{} {} {}", golden.name, to_string(precision.device), to_string(precision.dtype)));
}

inline std::string default_folder() {
  const char* const chosen = std::getenv("BOREAS_GOLDEN_DIR");
  return chosen ? chosen : BOREAS_SOURCE_DIR "/tests/golden";
}

inline std::vector<fs::path> files_in(const std::string& folder) {
  std::vector<fs::path> files;
  std::error_code failure;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, failure))
    if (entry.path().extension() == ".h5") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace boreas::test::golden

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/weights_io.h"
#include "io/hdf5_file.h"
#include "models/encoder_processor_decoder.h"
#include "tests/support/error_of.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tolerances.h"

namespace boreas::test {
namespace {

using nlohmann::json;

using test::message_of;

// A store with one of each kind of array: stacked maps, a mapper's norm, trainable edges, a constant.
std::unique_ptr<ParameterStore> make_store(DType dtype, uint64_t seed, double latitude = 0.5) {
  auto store = std::make_unique<ParameterStore>(dtype);
  const std::vector<double> coordinates{latitude, 0.25, -0.125, 1};
  store->add_constant("node_attributes.latlons_data", {1, 4}, coordinates);
  store->add("encoder.data.emb_nodes_src.weight", {3, 5}, Init::linear(5));
  store->add_stack({{"encoder.data.proc.lin_key.weight", 4}, {"encoder.data.proc.lin_value.weight", 4}}, 3,
                   Init::linear(3));
  store->add_stack({{"encoder.data.proc.lin_key.bias", 4}, {"encoder.data.proc.lin_value.bias", 4}}, 0,
                   Init::linear(3));
  store->add("encoder.data.proc.layer_norm_attention.weight", {3}, Init::linear(3));
  store->add("processor.proc.0.layer_norm_attention.weight", {3}, Init::linear(3));
  store->add("encoder_graph_provider.data.trainable.trainable", {6, 2}, Init::linear(2));
  store->materialise(seed);
  return store;
}

std::map<std::string, std::vector<double>> values_by_name(const ParameterStore& store) {
  std::map<std::string, std::vector<double>> values;
  store.for_each([&](const std::string& name, Tensor value, Tensor) { values[name] = values_of(value); });
  store.for_each_constant([&](const std::string& name, Tensor value) { values[name] = values_of(value); });
  return values;
}

// A safetensors file from a header and its data, without any check.
void write_safetensors(const std::string& path, const std::string& header, const std::string& data,
                       int64_t header_bytes = -1) {
  std::ofstream file(path, std::ios::binary);
  const uint64_t size = header_bytes < 0 ? header.size() : uint64_t(header_bytes);
  file.write(reinterpret_cast<const char*>(&size), 8);
  file << header << data;
}

std::string bytes_of(const auto& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(values[0])};
}

json read_safetensors_header(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), 8);
  std::string text(size, ' ');
  file.read(text.data(), int64_t(size));
  return json::parse(text);
}

TEST(WeightsIo, RoundTripIsBitwise) {
  const TemporaryFolder folder;
  for (const DType dtype : {DType::f64, DType::f32})
    for (const char* name : {"weights.h5", "weights.safetensors"}) {
      const auto written = make_store(dtype, 1), read = make_store(dtype, 2);
      EXPECT_NE(values_by_name(*written), values_by_name(*read));
      export_weights(folder / name, *written);
      const ImportReport report = import_weights(folder / name, *read);
      EXPECT_EQ(values_by_name(*written), values_by_name(*read)) << name << " " << to_string(dtype);
      EXPECT_EQ(report.num_imported, 9);
      EXPECT_EQ(report.aliases, std::vector<std::string>{"encoder.data.proc.layer_norm_attention_dest.weight"});
      EXPECT_EQ(report.num_arrays, 11);  // with the alias and the layout version
      EXPECT_TRUE(report.not_used.empty());
    }
}

TEST(WeightsIo, ExportIsACompleteStateDict) {
  const TemporaryFolder folder;
  export_weights(folder / "w.safetensors", *make_store(DType::f32, 1));
  const json header = read_safetensors_header(folder / "w.safetensors");
  EXPECT_EQ(header.size(), 11u);
  EXPECT_EQ(header["encoder_graph_provider.data.trainable_layout_version"]["shape"], json::array());
  EXPECT_EQ(header["encoder.data.proc.layer_norm_attention_dest.weight"]["shape"], json::array({3}));
  EXPECT_EQ(header["encoder.data.proc.lin_key.weight"]["shape"], json::array({4, 3}));
  EXPECT_FALSE(header.contains("processor.proc.0.layer_norm_attention_dest.weight"));
}

TEST(WeightsIo, PrefixesAndTypesAreConverted) {
  const TemporaryFolder folder;
  ParameterStore store(DType::f32);
  for (const char* name : {"a", "b", "c", "d"}) store.add(name, {3}, Init::zeros());
  store.materialise(1);
  const std::vector<uint16_t> half{0x3c00, 0xc000, 0x0001}, bf16{0x3f80, 0xc000, 0x3e80};
  const std::vector<double> f64{1, -2, 0.25};
  const std::vector<float> f32{1, -2, 0.25f};
  write_safetensors(folder / "w.safetensors", R"({"__metadata__": {"format": "pt"},
    "model.model.a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 6]},
    "model.b": {"dtype": "BF16", "shape": [3], "data_offsets": [6, 12]},
    "c": {"dtype": "F64", "shape": [3], "data_offsets": [12, 36]},
    "d": {"dtype": "F32", "shape": [3], "data_offsets": [36, 48]}})",
                    bytes_of(half) + bytes_of(bf16) + bytes_of(f64) + bytes_of(f32));
  import_weights(folder / "w.safetensors", store);
  auto values = values_by_name(store);
  EXPECT_EQ(values["a"], (std::vector<double>{1, -2, std::ldexp(1, -24)}));
  for (const char* name : {"b", "c", "d"}) EXPECT_EQ(values[name], (std::vector<double>{1, -2, 0.25})) << name;
}

TEST(WeightsIo, AllDifferencesStandInOneMessageAndNothingIsWritten) {
  const TemporaryFolder folder;
  const std::string path = folder / "w.h5";
  {
    Hdf5File file = Hdf5File::create(path);
    const std::vector<float> values(24, 2.0f);
    const auto write = [&](const char* name, Shape shape, float value = 2) {
      std::vector<float> own(size_t(shape.size()), value);
      file.write(std::string("weights/model.model.") + name, Tensor(own.data(), DType::f32, shape));
    };
    write("node_attributes.latlons_data", {1, 4}, 0.5f);
    write("encoder.data.emb_nodes_src.weight", {5, 3});
    write("encoder.data.proc.lin_key.weight", {4, 3});
    write("encoder.data.proc.lin_values.weight", {4, 3});
    write("encoder.data.proc.lin_key.bias", {4});
    write("encoder.data.proc.lin_value.bias", {4});
    write("encoder.data.proc.layer_norm_attention.weight", {3});
    write("encoder.data.proc.layer_norm_attention_dest.weight", {3}, 3);
    write("processor.proc.0.layer_norm_attention.weight", {3});
    write("encoder_graph_provider.data.trainable.trainable", {6, 2});
    write("encoder_graph_provider.data.trainable_layout_version", {1}, 0);
    write("boundings.data.0.norm_min_val", {1});
    file.commit();
  }
  const auto store = make_store(DType::f32, 1);
  const auto before = values_by_name(*store);
  const std::string message = message_of([&] { import_weights(path, *store); });
  EXPECT_EQ(message.find("config: "), 0u) << message;
  for (const char* text :
       {"w.h5 does not fit the model, 5 differences",
        "unexpected: encoder.data.proc.lin_values.weight [4, 3]; near names: encoder.data.proc.lin_value.weight",
        "missing: encoder.data.proc.lin_value.weight [4, 3]",
        "shape: encoder.data.emb_nodes_src.weight is [5, 3], expected [3, 5]", "not equal: ", "layout: "})
    EXPECT_NE(message.find(text), std::string::npos) << text << "\n" << message;
  EXPECT_EQ(values_by_name(*store), before);
}

TEST(WeightsIo, ArraysOfDataHandlingAreReported) {
  const TemporaryFolder folder;
  ParameterStore store(DType::f32);
  store.add("a", {1}, Init::zeros());
  store.materialise(1);
  write_safetensors(folder / "w", R"({
    "model.model.a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    "model.pre_processors.data.processors.normalizer._norm_mul": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})",
                    std::string(8, '\0'));
  const ImportReport report = import_weights(folder / "w", store);
  ASSERT_EQ(report.not_used.size(), 1u);
  EXPECT_NE(report.not_used[0].find("pre_processors.data.processors.normalizer._norm_mul: normalisation comes from"),
            std::string::npos);
}

TEST(WeightsIo, ConstantsMustAgreeWithTheGraph) {
  const TemporaryFolder folder;
  export_weights(folder / "w.h5", *make_store(DType::f64, 1, 0.5 + 1e-8));
  const auto near = make_store(DType::f64, 2), far = make_store(DType::f64, 2, 0.6);
  import_weights(folder / "w.h5", *near);
  EXPECT_EQ(values_by_name(*near)["node_attributes.latlons_data"][0], 0.5 + 1e-8);
  const std::string message = message_of([&] { import_weights(folder / "w.h5", *far); });
  EXPECT_NE(message.find("the weights belong to another graph"), std::string::npos) << message;
}

TEST(WeightsIo, DamagedSafetensorsAreRefused) {
  const TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  ParameterStore store(DType::f32);
  store.add("a", {2}, Init::zeros());
  store.materialise(1);
  const auto refuses = [&](const std::string& header, const std::string& data, const char* text,
                           int64_t header_bytes = -1) {
    write_safetensors(path, header, data, header_bytes);
    const std::string message = message_of([&] { import_weights(path, store); });
    EXPECT_NE(message.find(text), std::string::npos) << header << "\n" << message;
    EXPECT_NE(message.find("w.safetensors"), std::string::npos) << message;
  };
  const auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return fmt::format(R"({{"a": {{"dtype": "{}", "shape": {}, "data_offsets": {}}}}})", dtype, shape, offsets);
  };
  const std::string data(8, '\0');
  write_safetensors(path, entry("F32", "[2]", "[0, 8]"), data);
  EXPECT_NO_THROW(import_weights(path, store));

  refuses("{}", "", "corrupt_data", int64_t{1} << 62);
  refuses("{}", "", "corrupt_data", 3);
  refuses("[1, 2]", "", "not a JSON object");
  refuses("{broken", "", "not a JSON object");
  refuses(std::string(100000, '['), "", "not a JSON object");
  refuses(R"({"a": 1})", "", "lacks dtype, shape or data_offsets");
  refuses(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [[[[[0]]]], 8]}})", data, "corrupt_data");
  refuses(entry("F32", "[-2]", "[0, 8]"), data, "impossible shape");
  refuses(entry("F32", "[2.5]", "[0, 8]"), data, "impossible shape");
  refuses(entry("F32", "[4294967296, 4294967296]", "[0, 8]"), data, "impossible shape");
  refuses(entry("F32", "[4611686018427387904]", "[0, 8]"), data, "8 bytes of data");
  refuses(entry("F32", "[2]", "[0, 16]"), data, "outside the 8 bytes");
  refuses(entry("F32", "[2]", "[8, 0]"), data, "outside the 8 bytes");
  refuses(entry("F32", "[3]", "[0, 8]"), data, "8 bytes of data");
  refuses(entry("C64", "[1]", "[0, 8]"), data, "unsupported");
  refuses(entry("F32", "[1]", "[4, 8]"), data, "leave a gap at byte");
  refuses(entry("F32", "[2]", "[0, 8]"), data + "more", "the file has");
  refuses(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
              "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}})",
          data + "more", "overlap");
  refuses(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
              "model.a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})",
          data, "are the same array 'a'");
  const std::vector<float> nan{1, NAN};
  refuses(entry("F32", "[2]", "[0, 8]"), bytes_of(nan), "'a' is nan at element 1");
}

TEST(WeightsIo, FileErrors) {
  const TemporaryFolder folder;
  const auto store = make_store(DType::f32, 1);
  BOREAS_EXPECT_ERROR(import_weights(folder / "absent.h5", *store), io, "absent.h5");
  {
    Hdf5File file = Hdf5File::create(folder / "other.h5");
    file.make_group("parameters");
    file.commit();
  }
  BOREAS_EXPECT_ERROR(import_weights(folder / "other.h5", *store), config, "there is no group 'weights'");
  BOREAS_EXPECT_ERROR(export_weights(folder / "w.npz", *store), invalid_argument, "not as '.npz'");
  EXPECT_NE(message_of([&] { export_weights(folder / "no/such/folder/w.safetensors", *store); }).find("io: "),
            std::string::npos);
  EXPECT_NE(message_of([&] { export_weights(folder / "no/such/folder/w.h5", *store); }).find("io: "),
            std::string::npos);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

// --- a model of the reference implementation
// ---------------------------------------------------------------------------

NodeSet read_nodes(const Hdf5File& file, const std::string& name) {
  NodeSet nodes{.name = name, .latitudes = {}, .longitudes = {}, .attributes = {}};
  const std::vector<double> latlon = file.read_vector<double>("graph/" + name + "/latlon");
  for (size_t i = 0; i < latlon.size(); i += 2) {
    nodes.latitudes.push_back(latlon[i]);
    nodes.longitudes.push_back(latlon[i + 1]);
  }
  return nodes;
}

EdgeSet read_edges(const Hdf5File& file, const std::string& name, const std::string& src, const std::string& dst) {
  const std::vector<int64_t> src_of = file.read_vector<int64_t>("graph/" + name + "/src"),
                             dst_of = file.read_vector<int64_t>("graph/" + name + "/dst");
  return {.src = src,
          .dst = dst,
          .src_of = {src_of.begin(), src_of.end()},
          .dst_of = {dst_of.begin(), dst_of.end()},
          .attribute_names = {"edge_attr"},
          .attribute_widths = {3},
          .attributes = file.read_vector<double>("graph/" + name + "/edge_attr")};
}

TEST(WeightsIo, EveryArrayOfAGoldenModelMapsAndComesBack) {
  const TemporaryFolder folder;
  const std::string golden = BOREAS_SOURCE_DIR "/tests/golden/full_gt.h5", exported = folder / "again.h5";
  const Hdf5File file = Hdf5File::open(golden);
  GraphData graph;
  graph.nodes = {read_nodes(file, "data"), read_nodes(file, "hidden")};
  graph.edges = {read_edges(file, "encoder", "data", "hidden"), read_edges(file, "processor", "hidden", "hidden"),
                 read_edges(file, "decoder", "hidden", "data")};
  ModelConfig config;
  config.num_channels = 32;
  config.num_heads = 4;
  config.processor.num_layers = 2;
  config.trainable = {.data = 4, .hidden = 4, .encoder = 4, .processor = 4, .decoder = 4};
  ModelShape shape;
  shape.num_inputs = 8;
  shape.num_outputs = 7;
  shape.input_prognostic = {0, 2, 4, 6, 7};
  shape.output_prognostic = {0, 2, 4, 5, 6};
  ParameterStore store(DType::f64);
  const EncoderProcessorDecoder model(config, shape, graph, store);
  store.materialise(1);

  const ImportReport report = import_weights(golden, store);
  EXPECT_EQ(report.aliases.size(), 4u);
  EXPECT_EQ(report.num_imported + int64_t(report.aliases.size()) + 3, report.num_arrays);  // three layout versions
  EXPECT_TRUE(report.not_used.empty());

  export_weights(exported, store);
  const Hdf5File again = Hdf5File::open(exported);
  EXPECT_EQ(again.list("weights"), file.list("weights"));
  for (const std::string& name : file.list("weights")) {
    const auto [storage_a, a] = file.read("weights/" + name);
    const auto [storage_b, b] = again.read("weights/" + name);
    EXPECT_EQ(to_string(a), to_string(b)) << name;
    EXPECT_EQ(std::memcmp(a.data(), b.data(), size_t(a.bytes())), 0) << name;
  }
}

}  // namespace
}  // namespace boreas::test

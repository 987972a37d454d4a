// Parity with the reference implementation on the CPU, in f64 and f32: every file of golden numbers in a folder, which
// is tests/golden, or what BOREAS_GOLDEN_DIR or --golden-dir=<folder> names.
#include "tests/models/golden_models.h"

namespace boreas::test::golden {
namespace {

class Golden : public testing::Test {
 public:
  Golden(std::string path, DType dtype) : path_(std::move(path)), dtype_(dtype) {}

  void TestBody() override {
    const bool f64 = dtype_ == DType::f64;
    check_file(
        path_,
        {.device = Device::cpu(), .dtype = dtype_, .forward = f64 ? 1e-10 : 2e-6, .gradient = f64 ? 1e-9 : 2e-5});
  }

 private:
  std::string path_;
  DType dtype_;
};

// One test for each file and type; returns the number of files.
int register_tests(const std::string& folder) {
  const std::vector<fs::path> files = files_in(folder);
  for (const fs::path& file : files)
    for (const DType dtype : {DType::f64, DType::f32})
      testing::RegisterTest("Golden", fmt::format("{}_{}", file.stem().string(), to_string(dtype)).c_str(), nullptr,
                            nullptr, __FILE__, __LINE__, [=]() -> Golden* { return new Golden(file, dtype); });
  return int(files.size());
}

TEST(GoldenForm, UnsupportedKindsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {{R"({"mapper": "gnn", "proc": "gnn"})", "GNN"},
                                                       {R"({"mapper": "gt", "proc": "gt", "noise": 4})", "ensemble"},
                                                       {R"({"mlp_extra_layers": 0, "in_channels_src": 29})", "GNN"},
                                                       {R"({"C": 32, "condition_shape": 5})", "conditional layer norm"},
                                                       {R"({"C": 32, "channels": 4, "hidden": 16})", "noise"},
                                                       {R"({"something": 1})", "no known kind"},
                                                       {"null", "not in the form"}};
  for (const auto& [config, reason] : cases) {
    const Classified classified = classify(json::parse(config));
    EXPECT_EQ(classified.kind, Kind::unsupported) << config;
    EXPECT_NE(classified.reason.find(reason), std::string::npos) << config << ": " << classified.reason;
  }
  EXPECT_EQ(classify(json::parse(R"({"mapper": "gt", "proc": "tf", "noise": null})")).kind, Kind::full);
  EXPECT_EQ(classify(json::parse(R"({"num_layers": 2, "edge_dim": 11})")).kind, Kind::graph_processor);
  EXPECT_EQ(classify(json::parse(R"({"num_layers": 2, "window_size": null})")).kind, Kind::window_processor);
  EXPECT_EQ(classify(json::parse(R"({"shape": [2, 2, 4, 90, 7]})")).kind, Kind::losses);
}

}  // namespace
}  // namespace boreas::test::golden

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  std::string folder = boreas::test::golden::default_folder();
  constexpr std::string_view option = "--golden-dir=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(option)) {
      fmt::print(stderr, "unknown argument '{}'; expected {}<folder>\n", argument, option);
      return 2;
    }
    folder = argument.substr(option.size());
  }
  if (boreas::test::golden::register_tests(folder) == 0) {
    fmt::print(stderr, "no .h5 file in {}; give {}<folder> or BOREAS_GOLDEN_DIR\n", folder, option);
    return 2;
  }
  return RUN_ALL_TESTS();
}

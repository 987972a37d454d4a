#include "io/yaml.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

namespace boreas {
namespace {

enum class Shape3 { cube, ball };

struct Inner {
  int64_t count = 3;
  double rate = 1e-3;
  void fields(auto&& visit) {
    visit("count", count, "1", "how many");
    visit("rate", rate, "1/s", "how fast");
  }
};

struct Outer {
  bool on = false;
  std::string name = "x";
  Shape3 shape = Shape3::cube;
  std::vector<double> levels{1, 2.5};
  std::vector<Inner> inners;
  std::map<std::string, double> weights{{"t", 6}};
  std::optional<int32_t> limit;
  Inner inner;
  void fields(auto&& visit) {
    visit("on", on, "", "switch");
    visit("name", name, "", "a text");
    visit("shape", shape, "", "a shape");
    visit("levels", levels, "hPa", "some levels");
    visit("inners", inners, "", "a list of sections");
    visit("weights", weights, "", "by name");
    visit("limit", limit, "", "or none");
    visit("inner", inner, "", "a section");
  }
};

struct Tree {
  std::string name;
  std::vector<Tree> branches;
  void fields(auto&& visit) {
    visit("name", name, "", "a text");
    visit("branches", branches, "", "more of the same");
  }
};

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    Outer outer;
    YamlNode root = parse_yaml(text, "run.yaml");
    for (const std::string& assignment : overrides) override_yaml(root, assignment);
    from_yaml(root, outer);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::config);
    return error.what();
  }
  return "no error";
}

}  // namespace

template <>
struct EnumNames<Shape3> {
  static constexpr std::array values{std::pair{Shape3::cube, std::string_view("cube")},
                                     std::pair{Shape3::ball, std::string_view("ball")}};
};

namespace {

TEST(Yaml, ReadsEveryKindOfMember) {
  Outer outer;
  from_yaml(parse_yaml(R"(
on: true
name: 6h
shape: ball
levels: [1, -2e3, .nan]
inners:
  - {count: 1}
  - rate: 2
weights: {u: 0.8, v: 0.5}
limit: 7
inner:
  count: -4
)",
                       "run.yaml"),
            outer);
  EXPECT_TRUE(outer.on);
  EXPECT_EQ(outer.name, "6h");
  EXPECT_EQ(outer.shape, Shape3::ball);
  ASSERT_EQ(outer.levels.size(), 3u);
  EXPECT_EQ(outer.levels[1], -2000);
  EXPECT_TRUE(std::isnan(outer.levels[2]));
  ASSERT_EQ(outer.inners.size(), 2u);
  EXPECT_EQ(outer.inners[0].count, 1);
  EXPECT_EQ(outer.inners[0].rate, 1e-3);
  EXPECT_EQ(outer.inners[1].rate, 2);
  EXPECT_EQ(outer.weights, (std::map<std::string, double>{{"u", 0.8}, {"v", 0.5}}));
  EXPECT_EQ(outer.limit, 7);
  EXPECT_EQ(outer.inner.count, -4);
}

TEST(Yaml, KeepsDefaultsOfAbsentKeysAndEmptySections) {
  Outer outer;
  from_yaml(parse_yaml("inner:\nname: y\n", "run.yaml"), outer);
  EXPECT_EQ(outer.inner.count, 3);
  EXPECT_EQ(outer.name, "y");
  EXPECT_FALSE(outer.limit.has_value());
  from_yaml(parse_yaml("", "run.yaml"), outer);
  EXPECT_EQ(outer.name, "y");
}

TEST(Yaml, DumpReadsBackTheSame) {
  Outer outer;
  outer.name = "true: \"quoted\" # and\nmore";
  outer.levels = {0.1, 1e-300, 1.0 / 3, INFINITY};
  outer.inners.resize(2);
  outer.inners[1].rate = 0.30000000000000004;
  outer.weights = {{"10u", 1}, {"no", 2}};
  const std::string text = to_yaml(outer);
  Outer back;
  back.levels = {};
  from_yaml(parse_yaml(text, "dump"), back);
  EXPECT_EQ(back.name, outer.name);
  EXPECT_EQ(back.levels, outer.levels);
  EXPECT_EQ(back.inners[1].rate, outer.inners[1].rate);
  EXPECT_EQ(back.weights, outer.weights);
  EXPECT_EQ(to_yaml(back), text);
}

TEST(Yaml, OverridesAreTypedAndOrdered) {
  Outer outer;
  YamlNode root = parse_yaml("inners: [{count: 1}, {count: 2}]\n", "run.yaml");
  for (const char* assignment : {"inner.rate=5", "inner.rate=6", "levels=[3, 4]", "inners[1].count=9", "weights.q=0.5",
                                 "limit=null", "name=a=b"})
    override_yaml(root, assignment);
  from_yaml(root, outer);
  EXPECT_EQ(outer.inner.rate, 6);
  EXPECT_EQ(outer.levels, (std::vector<double>{3, 4}));
  EXPECT_EQ(outer.inners[1].count, 9);
  EXPECT_EQ(outer.weights.at("q"), 0.5);
  EXPECT_FALSE(outer.limit);
  EXPECT_EQ(outer.name, "a=b");
}

TEST(Yaml, UnknownKeyNamesLineAndNearestKey) {
  EXPECT_EQ(error_of("on: true\ninner:\n  coumt: 3\n"), "run.yaml:3: unknown key inner.coumt; near names: count");
  EXPECT_EQ(error_of("inner: {zzzzzz: 3}\n"), "run.yaml:1: unknown key inner.zzzzzz; inner has count, rate");
  EXPECT_EQ(error_of("", {"inner.rates=1"}), "--set inner.rates=1: unknown key inner.rates; near names: rate");
}

TEST(Yaml, WrongTypeNamesKeyValueAndExpectation) {
  EXPECT_EQ(error_of("inner:\n  count: many\n"), "run.yaml:2: inner.count is 'many'; expected integer");
  EXPECT_EQ(error_of("inner: {count: 1.5}\n"), "run.yaml:1: inner.count is '1.5'; expected integer");
  EXPECT_EQ(error_of("inner: {count: \"3\"}\n"), "run.yaml:1: inner.count is '3'; expected integer");
  EXPECT_EQ(error_of("on: yes\n"), "run.yaml:1: on is 'yes'; expected true or false");
  EXPECT_EQ(error_of("levels: 3\n"), "run.yaml:1: levels is '3'; expected list of number");
  EXPECT_EQ(error_of("levels: [1, x]\n"), "run.yaml:1: levels[1] is 'x'; expected number");
  EXPECT_EQ(error_of("shape: bal\n"), "run.yaml:1: shape is 'bal'; expected one of cube, ball; near names: ball");
  EXPECT_EQ(error_of("inner: 3\n"), "run.yaml:1: inner is '3'; expected section of keys");
  EXPECT_EQ(error_of("- 1\n"), "run.yaml:1: the file is a list; expected section of keys");
  EXPECT_EQ(error_of("name:\n"), "run.yaml:1: name is nothing; expected text");
  EXPECT_EQ(error_of("limit: 3000000000\n"),
            "run.yaml:1: limit is '3000000000'; expected integer from -2147483648 to 2147483647");
}

TEST(Yaml, BadSyntaxDuplicatesAndOverridesAreRefused) {
  EXPECT_NE(error_of("on: [true\n").find("run.yaml:"), std::string::npos);
  EXPECT_EQ(error_of("on: true\nname: a\non: false\n"), "run.yaml:3: the key 'on' is given twice; keep one");
  EXPECT_EQ(error_of("? [a, b]\n: 1\n"), "run.yaml:1: a key must be a name");
  EXPECT_EQ(error_of("", {"inner"}), "--set inner: expected key=value, such as training.seed=3");
  EXPECT_EQ(error_of("", {"inners[0].count=1"}),
            "--set inners[0].count=1: the config file gives no list item inners[0] here");
  EXPECT_EQ(error_of("name: a\n", {"name.b=1"}), "--set name.b=1: 'name' is not a section in run.yaml:1");
  EXPECT_EQ(error_of("", {"inner..count=1"}), "--set inner..count=1: a key is missing in 'inner..count'");
}

TEST(Yaml, MissingFileIsNamed) {
  Outer outer;
  try {
    load_yaml("/nonexistent/run.yaml", outer);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/run.yaml"), std::string::npos);
  }
}

TEST(Yaml, KeysDescribeNestedSections) {
  const std::vector<ConfigKey> keys = config_keys<Outer>();
  const auto find = [&](const std::string& key) {
    for (const ConfigKey& row : keys)
      if (row.key == key) return row;
    ADD_FAILURE() << "no key " << key;
    return ConfigKey{};
  };
  EXPECT_EQ(find("inner.rate").default_value, "0.001");
  EXPECT_EQ(find("inner.rate").unit, "1/s");
  EXPECT_EQ(find("levels").type, "list of number");
  EXPECT_EQ(find("levels").default_value, "[1, 2.5]");
  EXPECT_EQ(find("inners[].count").default_value, "3");
  EXPECT_EQ(find("shape").type, "cube | ball");
  EXPECT_EQ(find("limit").default_value, "~");
}

TEST(Yaml, FlattenListsEveryLeaf) {
  const auto leaves = flatten_yaml(parse_yaml("a: {b: 1, c: [1, 2]}\nd: [{e: 3}]\n", "x"));
  using Leaf = std::pair<std::string, std::string>;
  EXPECT_EQ(leaves, (std::vector<Leaf>{{"a.b", "1"}, {"a.c", "[1, 2]"}, {"d[0].e", "3"}}));
}

TEST(Yaml, SectionsMayNestInThemselves) {
  Tree tree;
  from_yaml(parse_yaml("{name: a, branches: [{name: b}, {branches: [{name: c}]}]}", "x"), tree);
  EXPECT_EQ(tree.branches[1].branches[0].name, "c");
  EXPECT_EQ(config_keys<Tree>().size(), 2u);
}

}  // namespace
}  // namespace boreas

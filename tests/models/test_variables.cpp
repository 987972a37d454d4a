#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "kernels/core/near_names.h"
#include "models/variables.h"
#include "tests/support/error_of.h"

namespace boreas {
namespace {

using test::message_of;

std::vector<int32_t> list(std::span<const int32_t> values) { return {values.begin(), values.end()}; }

TEST(VariableTable, IndexSpacesKeepDatasetOrder) {
  const VariableTable table({"p0", "f0", "d0", "p1", "f1", "d1", "p2"},
                            {.forcing = {"f1", "f0"}, .diagnostic = {"d1", "d0"}});
  using List = std::vector<int32_t>;
  EXPECT_EQ(list(table.input()), (List{0, 1, 3, 4, 6}));
  EXPECT_EQ(list(table.output()), (List{0, 2, 3, 5, 6}));
  EXPECT_EQ(list(table.input_prognostic()), (List{0, 2, 4}));
  EXPECT_EQ(list(table.input_forcing()), (List{1, 3}));
  EXPECT_EQ(list(table.output_prognostic()), (List{0, 2, 4}));
  EXPECT_EQ(list(table.output_diagnostic()), (List{1, 3}));
  EXPECT_EQ(table.input_names(), (std::vector<std::string>{"p0", "f0", "p1", "f1", "p2"}));
  EXPECT_EQ(table.output_names(), (std::vector<std::string>{"p0", "d0", "p1", "d1", "p2"}));
  EXPECT_EQ(table.output_index("d1", "test"), 3);
  EXPECT_EQ(table.role(table.index("f1", "test")), Role::forcing);
  EXPECT_EQ(to_string(table.role(2)), "diagnostic");
}

TEST(VariableTable, LevelsComeFromNamesAndMetadata) {
  EXPECT_EQ(parse_variable_name("u_500").base, "u");
  EXPECT_EQ(parse_variable_name("u_500").level, 500);
  EXPECT_EQ(parse_variable_name("soil_temperature_2").base, "soil_temperature");
  for (const char* plain : {"10u", "tp", "swvl1", "cos_latitude", "u_", "_500", "u_5x"}) {
    EXPECT_EQ(parse_variable_name(plain).base, plain);
    EXPECT_FALSE(parse_variable_name(plain).level) << plain;
  }
  const VariableTable table({"u_500", "w_3"}, {}, {{"w_3", 850.0}});
  EXPECT_EQ(table.level(0), 500);
  EXPECT_EQ(table.level(1), 850);
  EXPECT_EQ(table.base(1), "w");
}

TEST(VariableTable, ErrorsNameTheVariableAndItsNeighbours) {
  const VariableTable table({"u_500", "v_500", "tp"}, {.forcing = {"tp"}, .diagnostic = {}});
  const std::string absent = message_of([&] { table.index("u_50", "normaliser.std"); });
  EXPECT_EQ(absent, "config: normaliser.std: the dataset has no variable 'u_50'; near names: u_500");
  EXPECT_NE(message_of([&] { table.output_index("tp", "loss"); }).find("'tp' is a forcing"), std::string::npos);
  EXPECT_NE(message_of([] {
              VariableTable({"a", "b"}, {.forcing = {"c"}, .diagnostic = {}});
            }).find("'c'"),
            std::string::npos);
  EXPECT_NE(message_of([] { VariableTable({"a", "a"}, {}); }).find("listed twice"), std::string::npos);
  EXPECT_NE(message_of([] {
              VariableTable({"a", "b"}, {.forcing = {"a"}, .diagnostic = {"a"}});
            }).find("as forcing and as"),
            std::string::npos);
  EXPECT_NE(message_of([] { VariableTable({"a"}, {.forcing = {"a"}, .diagnostic = {}}); }).find("none of the 1"),
            std::string::npos);
}

TEST(NearNames, NearestFirstAndNothingFarAway) {
  const std::vector<std::string> known{"num_channels", "num_chunks", "num_heads", "window"};
  EXPECT_EQ(near_names("num_chanels", known), "; near names: num_channels, num_chunks");
  EXPECT_EQ(near_names("Window", known), "; near names: window");
  EXPECT_EQ(near_names("zzz", known), "");
}

}  // namespace
}  // namespace boreas

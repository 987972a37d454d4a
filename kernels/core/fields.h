// How a config struct lists its members, once, for the YAML reader, the resolved dump, --set and the docs.
#pragma once

#include <array>
#include <concepts>
#include <string_view>
#include <utility>

namespace boreas {

/// A struct is a config struct if it has one template method
///
///     void fields(auto&& visit) {
///       visit("num_channels", num_channels, "", "width of the hidden representation");
///       visit("learning_rate", learning_rate, "1", "peak learning rate");
///     }
///
/// `visit(name, member, unit, meaning)` is called for each member in order; members are bool, integers, double,
/// std::string, std::vector or std::map<std::string, ...> of these, std::optional of these, enums with EnumNames, or
/// config structs.
template <class T>
concept ConfigStruct = requires(T t) {
  t.fields([](auto&&...) {});
};

/// Names of the values of an enum in files. Specialise as
///     template <> struct EnumNames<Kind> { static constexpr std::array values{std::pair{Kind::a,
///     std::string_view("a")}}; };
template <class E>
struct EnumNames;

template <class E>
concept NamedEnum = requires {
  EnumNames<E>::values;
};

template <NamedEnum E>
constexpr std::string_view to_string(E value) {
  for (const auto& [candidate, name] : EnumNames<E>::values)
    if (candidate == value) return name;
  return "?";
}

}  // namespace boreas

// YAML text <-> config structs, through their fields().
#pragma once

#include <algorithm>
#include <charconv>
#include <concepts>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/fields.h"
#include "kernels/core/near_names.h"

namespace boreas {

/// A YAML value. `where` says where it was written, such as "config.yaml:12" or "--set training.seed=3".
struct YamlNode {
  enum class Kind : uint8_t { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string key;     ///< name in the parent map; empty in lists
  std::string scalar;  ///< text of a scalar
  bool quoted = false;
  std::vector<YamlNode> children;
  std::string where;

  const YamlNode* find(std::string_view name) const;
};

/// Throws config with name and line on bad syntax, duplicate keys and keys that are not names.
YamlNode parse_yaml(const std::string& text, const std::string& name);
YamlNode read_yaml(const std::string& path);
/// Applies "a.b=c" or "a.list[2].b=c", where c is any YAML value: `a.b=[1, 2]`.
void override_yaml(YamlNode& root, const std::string& assignment);
std::string write_yaml(const YamlNode& root);
/// "a.b" -> text of every scalar, in order; lists of scalars are one value. For comparing two configs.
std::vector<std::pair<std::string, std::string>> flatten_yaml(const YamlNode& root);

/// One row of a config reference.
struct ConfigKey {
  std::string key, type, default_value, unit, meaning;
};

namespace detail {

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class T>
struct IsMap<std::map<std::string, T>> : std::true_type {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class>
inline constexpr bool kUnknownType = false;

std::string child_path(const std::string& path, std::string_view name);
[[noreturn]] void fail_type(const YamlNode& node, const std::string& path, const std::string& expected);
[[noreturn]] void fail_unknown_key(const YamlNode& node, const std::string& path,
                                   const std::vector<std::string>& known);
bool parse_bool(const YamlNode& node, bool& value);
bool parse_double(const YamlNode& node, double& value);
std::string format_double(double value);
std::string format_float(float value);

template <NamedEnum E>
std::vector<std::string> names_of() {
  std::vector<std::string> names;
  for (const auto& [value, name] : EnumNames<E>::values) names.emplace_back(name);
  return names;
}

/// What a value of this type is called in messages and in the reference.
template <class T>
std::string type_name() {
  if constexpr (std::same_as<T, bool>)
    return "true or false";
  else if constexpr (NamedEnum<T>)
    return fmt::format("{}", fmt::join(names_of<T>(), " | "));
  else if constexpr (std::integral<T>)
    return "integer";
  else if constexpr (std::floating_point<T>)
    return "number";
  else if constexpr (std::same_as<T, std::string>)
    return "text";
  else if constexpr (IsVector<T>::value)
    return "list of " + type_name<typename T::value_type>();
  else if constexpr (IsMap<T>::value)
    return "map of names to " + type_name<typename T::mapped_type>();
  else if constexpr (IsOptional<T>::value)
    return type_name<typename T::value_type>() + ", or null";
  else if constexpr (ConfigStruct<T>)
    return "section";
  else
    static_assert(kUnknownType<T>, "not a config type");
}

template <class T>
void decode(const YamlNode& node, const std::string& path, T& out) {
  using Kind = YamlNode::Kind;
  if constexpr (IsOptional<T>::value) {
    if (node.kind == Kind::null) return out.reset();
    decode(node, path, out.emplace());
  } else if constexpr (IsVector<T>::value) {
    if (node.kind != Kind::list) fail_type(node, path, type_name<T>());
    out.clear();
    for (size_t i = 0; i < node.children.size(); ++i) {
      typename T::value_type item{};
      decode(node.children[i], fmt::format("{}[{}]", path, i), item);
      out.push_back(std::move(item));
    }
  } else if constexpr (IsMap<T>::value) {
    if (node.kind != Kind::map) fail_type(node, path, type_name<T>());
    out.clear();
    for (const YamlNode& child : node.children) decode(child, child_path(path, child.key), out[child.key]);
  } else if constexpr (ConfigStruct<T>) {
    if (node.kind == Kind::null) return;  // "section:" with nothing below keeps the defaults
    if (node.kind != Kind::map) fail_type(node, path, "section of keys");
    std::vector<std::string> known;
    out.fields([&](std::string_view name, auto& member, auto&&...) {
      known.emplace_back(name);
      if (const YamlNode* child = node.find(name)) decode(*child, child_path(path, name), member);
    });
    for (const YamlNode& child : node.children)
      if (std::find(known.begin(), known.end(), child.key) == known.end()) fail_unknown_key(child, path, known);
  } else {
    if (node.kind != Kind::scalar) fail_type(node, path, type_name<T>());
    if constexpr (std::same_as<T, std::string>) {
      out = node.scalar;
    } else if constexpr (std::same_as<T, bool>) {
      if (!parse_bool(node, out)) fail_type(node, path, type_name<T>());
    } else if constexpr (NamedEnum<T>) {
      for (const auto& [value, name] : EnumNames<T>::values)
        if (name == node.scalar) return void(out = value);
      const std::vector<std::string> names = names_of<T>();
      fail_type(node, path, fmt::format("one of {}{}", fmt::join(names, ", "), near_names(node.scalar, names)));
    } else if constexpr (std::integral<T>) {
      const char *begin = node.scalar.data(), *end = begin + node.scalar.size();
      const auto [stop, error] = std::from_chars(begin, end, out);
      if (error == std::errc::result_out_of_range)
        fail_type(node, path,
                  fmt::format("integer from {} to {}", std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
      if (error != std::errc() || stop != end || node.quoted) fail_type(node, path, type_name<T>());
    } else {
      double value = 0;
      if (!parse_double(node, value)) fail_type(node, path, type_name<T>());
      out = T(value);
    }
  }
}

template <class T>
YamlNode encode(const T& value) {
  using Kind = YamlNode::Kind;
  YamlNode node;
  if constexpr (IsOptional<T>::value) {
    if (value) node = encode(*value);
  } else if constexpr (IsVector<T>::value) {
    node.kind = Kind::list;
    for (const typename T::value_type& item : value) node.children.push_back(encode(item));
  } else if constexpr (IsMap<T>::value) {
    node.kind = Kind::map;
    for (const auto& [key, item] : value) {
      node.children.push_back(encode(item));
      node.children.back().key = key;
    }
  } else if constexpr (ConfigStruct<T>) {
    node.kind = Kind::map;
    // fields() serves reading and writing and is therefore not const; this visitor only reads.
    const_cast<T&>(value).fields([&](std::string_view name, const auto& member, auto&&...) {
      node.children.push_back(encode(member));
      node.children.back().key = std::string(name);
    });
  } else {
    node.kind = Kind::scalar;
    if constexpr (std::same_as<T, std::string>)
      node.scalar = value, node.quoted = true;
    else if constexpr (std::same_as<T, bool>)
      node.scalar = value ? "true" : "false";
    else if constexpr (NamedEnum<T>)
      node.scalar = std::string(to_string(value));
    else if constexpr (std::integral<T>)
      node.scalar = std::to_string(value);
    else if constexpr (std::same_as<T, float>)
      node.scalar = format_float(value);
    else
      node.scalar = format_double(value);
  }
  return node;
}

std::string inline_yaml(const YamlNode& node);

// Outer: the sections around this one; a section that nests in itself is described once.
template <class... Outer, class T>
void describe(const std::string& path, const T& value, const std::string& unit, const std::string& meaning,
              std::vector<ConfigKey>& rows) {
  const auto describe_item = [&]<class Item>(const std::string& item_path, const Item& item) {
    if constexpr (ConfigStruct<Item> && !(std::same_as<Item, Outer> || ...))
      describe<Outer...>(item_path, item, "", "one item", rows);
  };
  if constexpr (ConfigStruct<T>) {
    if (!path.empty()) rows.push_back({path, type_name<T>(), "", unit, meaning});
    const_cast<T&>(value).fields([&](std::string_view name, const auto& member, std::string_view field_unit,
                                     std::string_view field_meaning) {
      describe<T, Outer...>(child_path(path, name), member, std::string(field_unit), std::string(field_meaning), rows);
    });
  } else {
    rows.push_back({path, type_name<T>(), inline_yaml(encode(value)), unit, meaning});
    if constexpr (IsVector<T>::value)
      describe_item(path + "[]", typename T::value_type{});
    else if constexpr (IsMap<T>::value)
      describe_item(path + ".<name>", typename T::mapped_type{});
    else if constexpr (IsOptional<T>::value)
      describe_item(path, typename T::value_type{});
  }
}

}  // namespace detail

/// Sets the members that `node` gives; the others keep their values. Throws config, naming where it is written, the
/// dotted key and what was expected: an unknown key (with the nearest known one), a wrong type, a name that an enum
/// does not have.
template <ConfigStruct T>
void from_yaml(const YamlNode& node, T& config) {
  detail::decode(node, "", config);
}

/// A file, then overrides such as "training.seed=3", in order.
template <ConfigStruct T>
void load_yaml(const std::string& path, T& config, const std::vector<std::string>& overrides = {}) {
  YamlNode root = read_yaml(path);
  for (const std::string& assignment : overrides) override_yaml(root, assignment);
  from_yaml(root, config);
}

/// Every key with its value, so that reading the text gives the same struct whatever the defaults are by then.
template <ConfigStruct T>
std::string to_yaml(const T& config) {
  return write_yaml(detail::encode(config));
}

/// Every key with type, default, unit and meaning, in the order of fields().
template <ConfigStruct T>
std::vector<ConfigKey> config_keys() {
  std::vector<ConfigKey> rows;
  detail::describe("", T{}, "", "", rows);
  return rows;
}

}  // namespace boreas

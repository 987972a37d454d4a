#include "io/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace boreas {

namespace {

constexpr int64_t kMaximumNodes = 1'000'000;  // aliases of aliases could otherwise expand without end
constexpr int kMaximumDepth = 64;

using Kind = YamlNode::Kind;

struct Converter {
  const std::string& name;
  bool with_lines;
  int64_t num_nodes = 0;

  YamlNode convert(const YAML::Node& from, int depth) {
    YamlNode to;
    const int line = from.Mark().line;
    to.where = with_lines && line >= 0 ? fmt::format("{}:{}", name, line + 1) : name;
    BOREAS_CHECK(++num_nodes <= kMaximumNodes && depth <= kMaximumDepth, config,
                 "{}: more than {} values or {} levels; a config is smaller than that", to.where, kMaximumNodes,
                 kMaximumDepth);
    switch (from.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        to.kind = Kind::scalar;
        to.scalar = from.Scalar();
        to.quoted = from.Tag() == "!";
        break;
      case YAML::NodeType::Sequence:
        to.kind = Kind::list;
        for (const YAML::Node& item : from) to.children.push_back(convert(item, depth + 1));
        break;
      case YAML::NodeType::Map:
        to.kind = Kind::map;
        for (const auto& entry : from) {
          BOREAS_CHECK(entry.first.IsScalar(), config, "{}: a key must be a name", to.where);
          const std::string key = entry.first.Scalar();
          YamlNode child = convert(entry.second, depth + 1);
          const int key_line = entry.first.Mark().line;
          if (with_lines && key_line >= 0) child.where = fmt::format("{}:{}", name, key_line + 1);
          BOREAS_CHECK(!to.find(key), config, "{}: the key '{}' is given twice; keep one", child.where, key);
          child.key = key;
          to.children.push_back(std::move(child));
        }
        break;
    }
    return to;
  }
};

YamlNode parse(const std::string& text, const std::string& name, bool with_lines) {
  try {
    return Converter{name, with_lines}.convert(YAML::Load(text), 0);
  } catch (const YAML::Exception& error) {
    BOREAS_FAIL(config, "{}: not valid YAML: {}",
                with_lines && error.mark.line >= 0 ? fmt::format("{}:{}", name, error.mark.line + 1) : name, error.msg);
  }
}

// Plain text that every YAML reader takes for a string, not for a number, a boolean or null.
bool reads_as_string(const std::string& text) {
  static const char* const special[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  std::string lower = text;
  for (char& c : lower) c = char(std::tolower((unsigned char)c));
  const auto is_letter = [](char c) { return std::isalpha((unsigned char)c) || c == '_' || c == '/'; };
  const auto is_plain = [&](char c) { return is_letter(c) || std::isdigit((unsigned char)c) || c == '-' || c == '.'; };
  return !text.empty() && is_letter(text[0]) && std::all_of(text.begin(), text.end(), is_plain) &&
         std::find(std::begin(special), std::end(special), lower) == std::end(special);
}

void emit(YAML::Emitter& out, const YamlNode& node) {
  switch (node.kind) {
    case Kind::null:
      out << YAML::Null;
      break;
    case Kind::scalar:
      if (node.quoted && !reads_as_string(node.scalar)) out << YAML::DoubleQuoted;
      out << node.scalar;
      break;
    case Kind::list: {
      const bool flat = std::all_of(node.children.begin(), node.children.end(), [](const YamlNode& child) {
        return child.kind == Kind::scalar || child.kind == Kind::null;
      });
      if (flat) out << YAML::Flow;
      out << YAML::BeginSeq;
      for (const YamlNode& child : node.children) emit(out, child);
      out << YAML::EndSeq;
      break;
    }
    case Kind::map:
      if (node.children.empty()) out << YAML::Flow;
      out << YAML::BeginMap;
      for (const YamlNode& child : node.children) {
        out << YAML::Key;
        if (!reads_as_string(child.key)) out << YAML::DoubleQuoted;
        out << child.key << YAML::Value;
        emit(out, child);
      }
      out << YAML::EndMap;
      break;
  }
}

void flatten(const YamlNode& node, const std::string& path, std::vector<std::pair<std::string, std::string>>& out) {
  const bool of_nodes = std::any_of(node.children.begin(), node.children.end(),
                                    [](const YamlNode& child) { return !child.children.empty(); });
  if (node.kind == Kind::map && !node.children.empty()) {
    for (const YamlNode& child : node.children) flatten(child, detail::child_path(path, child.key), out);
  } else if (node.kind == Kind::list && of_nodes) {
    for (size_t i = 0; i < node.children.size(); ++i) flatten(node.children[i], fmt::format("{}[{}]", path, i), out);
  } else {
    out.emplace_back(path, detail::inline_yaml(node));
  }
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view name) const {
  for (const YamlNode& child : children)
    if (kind == Kind::map && child.key == name) return &child;
  return nullptr;
}

YamlNode parse_yaml(const std::string& text, const std::string& name) { return parse(text, name, true); }

YamlNode read_yaml(const std::string& path) {
  std::ifstream file(path);
  BOREAS_CHECK(file, io, "{}: cannot open this config file for reading", path);
  std::stringstream text;
  text << file.rdbuf();
  BOREAS_CHECK(!file.bad() && !text.fail(), io, "{}: cannot read this config file, or it is empty", path);
  return parse_yaml(text.str(), path);
}

void override_yaml(YamlNode& root, const std::string& assignment) {
  const std::string where = "--set " + assignment;
  const size_t equals = assignment.find('=');
  BOREAS_CHECK(equals != std::string::npos && equals > 0, config, "{}: expected key=value, such as training.seed=3",
               where);
  const std::string path = assignment.substr(0, equals);
  YamlNode value = parse(assignment.substr(equals + 1), where, false);

  YamlNode* node = &root;
  for (size_t begin = 0; begin < path.size();) {
    if (path[begin] == '[') {
      const size_t end = path.find(']', begin);
      size_t index = 0;
      const bool is_index = end != std::string::npos &&
                            std::from_chars(&path[begin + 1], &path[end], index).ptr == &path[end] && end > begin + 1;
      BOREAS_CHECK(is_index, config, "{}: expected a position such as [0] in '{}'", where, path);
      BOREAS_CHECK(node->kind == Kind::list && index < node->children.size(), config,
                   "{}: the config file gives no list item {} here", where, path.substr(0, end + 1));
      node = &node->children[index];
      begin = end + 1;
      if (begin < path.size() && path[begin] == '.') ++begin;
      continue;
    }
    const size_t end = std::min(path.find_first_of(".[", begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    BOREAS_CHECK(!key.empty(), config, "{}: a key is missing in '{}'", where, path);
    BOREAS_CHECK(node->kind == Kind::map || node->kind == Kind::null, config, "{}: '{}' is not a section in {}", where,
                 path.substr(0, begin > 0 ? begin - 1 : 0), node->where);
    node->kind = Kind::map;
    auto child = std::find_if(node->children.begin(), node->children.end(),
                              [&](const YamlNode& candidate) { return candidate.key == key; });
    if (child == node->children.end()) {
      YamlNode added;
      added.key = key;
      added.where = where;
      child = node->children.insert(child, added);
    }
    node = &*child;
    begin = end + (end < path.size() && path[end] == '.');
  }
  value.key = node->key;
  *node = std::move(value);
}

std::string write_yaml(const YamlNode& root) {
  YAML::Emitter out;
  emit(out, root);
  BOREAS_CHECK(out.good(), internal, "cannot write a config as YAML: {}", out.GetLastError());
  return std::string(out.c_str()) + "\n";
}

std::vector<std::pair<std::string, std::string>> flatten_yaml(const YamlNode& root) {
  std::vector<std::pair<std::string, std::string>> out;
  flatten(root, "", out);
  return out;
}

namespace detail {

std::string child_path(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : fmt::format("{}.{}", path, name);
}

std::string inline_yaml(const YamlNode& node) {
  YAML::Emitter out;
  out.SetMapFormat(YAML::Flow);
  out.SetSeqFormat(YAML::Flow);
  emit(out, node);
  return out.c_str();
}

void fail_type(const YamlNode& node, const std::string& path, const std::string& expected) {
  const std::string found = node.kind == Kind::null   ? "nothing"
                            : node.kind == Kind::list ? "a list"
                            : node.kind == Kind::map  ? "a section"
                                                      : fmt::format("'{}'", node.scalar);
  BOREAS_FAIL(config, "{}: {} is {}; expected {}", node.where, path.empty() ? "the file" : path, found, expected);
}

void fail_unknown_key(const YamlNode& node, const std::string& path, const std::vector<std::string>& known) {
  const std::string near = near_names(node.key, known);
  BOREAS_FAIL(
      config, "{}: unknown key {}{}", node.where, child_path(path, node.key),
      near.empty() ? fmt::format("; {} has {}", path.empty() ? "a config" : path, fmt::join(known, ", ")) : near);
}

bool parse_bool(const YamlNode& node, bool& value) {
  value = node.scalar == "true";
  return !node.quoted && (node.scalar == "true" || node.scalar == "false");
}

bool parse_double(const YamlNode& node, double& value) {
  std::string text = node.scalar;
  if (text == ".nan" || text == ".inf" || text == "-.inf") text.erase(text.find('.'), 1);
  const bool begins_well = !text.empty() && !std::isspace((unsigned char)text[0]);
  char* end = nullptr;
  value = std::strtod(text.c_str(), &end);
  return begins_well && !node.quoted && end == text.c_str() + text.size();
}

template <class T>
static std::string format_number(T value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  return fmt::format("{}", value);
}
std::string format_double(double value) { return format_number(value); }
std::string format_float(float value) { return format_number(value); }

}  // namespace detail

}  // namespace boreas

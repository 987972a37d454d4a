// What a model is made of: the part of a configuration that `models` owns.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/bounding/bounding.h"
#include "kernels/window_attention/window_attention.h"
#include "models/layer.h"

namespace boreas {

/// Form of the multi-layer perceptrons: plain (GELU), or gated by sigmoid, SiLU, GELU, ReLU.
enum class MlpKind : uint8_t { mlp, glu, swiglu, geglu, reglu };
template <>
struct EnumNames<MlpKind> {
  static constexpr std::array values{
      std::pair{MlpKind::mlp, std::string_view("mlp")}, std::pair{MlpKind::glu, std::string_view("glu")},
      std::pair{MlpKind::swiglu, std::string_view("swiglu")}, std::pair{MlpKind::geglu, std::string_view("geglu")},
      std::pair{MlpKind::reglu, std::string_view("reglu")}};
};

enum class ProcessorKind : uint8_t { graph_transformer, transformer, none };
template <>
struct EnumNames<ProcessorKind> {
  static constexpr std::array values{std::pair{ProcessorKind::graph_transformer, std::string_view("graph_transformer")},
                                     std::pair{ProcessorKind::transformer, std::string_view("transformer")},
                                     std::pair{ProcessorKind::none, std::string_view("none")}};
};

/// Type of the residual stream: that of activations, or the wider one that sums are kept in (f32 beside bf16).
enum class ResidualType : uint8_t { storage, f32 };
template <>
struct EnumNames<ResidualType> {
  static constexpr std::array values{std::pair{ResidualType::storage, std::string_view("storage")},
                                     std::pair{ResidualType::f32, std::string_view("f32")}};
};

/// Number of trainable values that stand beside the fixed attributes of each node or edge.
struct TrainableConfig {
  int64_t data = 8, hidden = 8, encoder = 8, processor = 8, decoder = 8;

  void fields(auto&& visit) {
    visit("data", data, "", "trainable values for each data node");
    visit("hidden", hidden, "", "trainable values for each hidden node");
    visit("encoder", encoder, "", "trainable values for each encoder edge");
    visit("processor", processor, "", "trainable values for each processor edge");
    visit("decoder", decoder, "", "trainable values for each decoder edge");
  }
};

struct EncoderConfig {
  int64_t num_chunks = 1;

  void fields(auto&& visit) {
    visit("num_chunks", num_chunks, "", "parts of the hidden nodes done one after another; more chunks, less memory");
  }
};

struct DecoderConfig {
  int64_t num_chunks = 1;
  bool initialise_data_extractor_zero = false;

  void fields(auto&& visit) {
    visit("num_chunks", num_chunks, "", "parts of the data nodes done one after another; more chunks, less memory");
    visit("initialise_data_extractor_zero", initialise_data_extractor_zero, "",
          "start the output layer at zero, so that training starts from persistence");
  }
};

struct ProcessorConfig {
  ProcessorKind kind = ProcessorKind::graph_transformer;
  int64_t num_layers = 16;
  int64_t window = 512;
  WindowAttentionKernel attention_kernel = WindowAttentionKernel::automatic;
  std::optional<bool> qk_norm;

  void fields(auto&& visit) {
    visit("kind", kind, "",
          "graph_transformer (along hidden edges), transformer (windowed, along the node order), none");
    visit("num_layers", num_layers, "", "number of blocks");
    visit("window", window, "nodes", "transformer: attend to nodes at most this far in node order; -1: to all");
    visit("attention_kernel", attention_kernel, "",
          "transformer on a GPU: automatic, or one of the kernels that there are: hopper, tensor_cores, generic, "
          "cudnn");
    visit("qk_norm", qk_norm, "", "overrides model.qk_norm in the processor");
  }
};

/// One bounding of normalised outputs; boundings are applied in the order of their list.
struct BoundingConfig {
  BoundingKind kind = BoundingKind::relu;
  std::vector<std::string> variables;
  double minimum = 0, maximum = 1;
  std::string total_variable;

  void fields(auto&& visit) {
    visit("kind", kind, "",
          "relu, leaky_relu, normalized_relu, normalized_leaky_relu, hardtanh, leaky_hardtanh, "
          "fraction, leaky_fraction");
    visit("variables", variables, "", "output variables that are bounded; those that the dataset lacks are skipped");
    visit("minimum", minimum, "",
          "lower bound: normalised for hardtanh and fraction kinds, in the variable's units "
          "for normalized kinds");
    visit("maximum", maximum, "", "upper bound of hardtanh and fraction kinds, normalised");
    visit("total_variable", total_variable, "", "fraction kinds: the output that the fraction is multiplied with");
  }
};

struct ModelConfig {
  int64_t num_channels = 1024;
  int64_t num_heads = 16;
  int64_t attention_channels = 0;
  MlpKind mlp = MlpKind::mlp;
  double mlp_ratio = 4;
  bool qk_norm = false;
  bool edge_pre_mlp = false;
  bool latent_skip = true;
  TrainableConfig trainable;
  EncoderConfig encoder;
  ProcessorConfig processor;
  DecoderConfig decoder;
  std::vector<BoundingConfig> bounding;
  Recompute recompute = Recompute::none;
  ResidualType residual_dtype = ResidualType::storage;

  void fields(auto&& visit) {
    visit("num_channels", num_channels, "", "width of the hidden representation");
    visit("num_heads", num_heads, "", "attention heads; must divide the attention channels");
    visit("attention_channels", attention_channels, "", "width of queries, keys and values; 0: num_channels");
    visit("mlp", mlp, "", "form of the multi-layer perceptrons: mlp, glu, swiglu, geglu, reglu");
    visit("mlp_ratio", mlp_ratio, "", "width of an MLP's hidden layer over num_channels; 2.67 for gated forms");
    visit("qk_norm", qk_norm, "", "normalise queries and keys of each head");
    visit("edge_pre_mlp", edge_pre_mlp, "", "pass edge attributes through a small MLP in each block");
    visit("latent_skip", latent_skip, "", "add the encoder's output to the processor's");
    visit("trainable", trainable, "", "trainable node and edge attributes");
    visit("encoder", encoder, "", "data grid to hidden mesh");
    visit("processor", processor, "", "on the hidden mesh");
    visit("decoder", decoder, "", "hidden mesh to data grid");
    visit("bounding", bounding, "", "limits of normalised outputs, applied in order");
    visit("recompute", recompute, "", "what backward computes again instead of keeping: none, mappers, block, step");
    visit("residual_dtype", residual_dtype, "",
          "type of the residual stream: storage (that of precision) or f32; matters with precision bf16");
  }
};

/// A bounding whose variables have become columns of the model's output.
struct ResolvedBounding {
  BoundingKind kind = BoundingKind::relu;
  std::vector<int32_t> columns;
  double minimum = 0, maximum = 1;  ///< hardtanh and fraction kinds, normalised
  std::vector<double> offsets;      ///< normalized kinds: the normalised lower bound of each column
  int32_t total_column = -1;

  BoundingRule rule() const { return {kind, columns, minimum, maximum, offsets, total_column}; }
};

/// What the data decide about a model: widths, and which columns of its input and output are the same variable.
struct ModelShape {
  int64_t num_input_steps = 2, num_output_steps = 1;
  int64_t num_inputs = 0, num_outputs = 0;                   ///< variables of one step: V_i, V_o
  std::vector<int32_t> input_prognostic, output_prognostic;  ///< the k-th of both is one variable
  std::vector<ResolvedBounding> boundings;                   ///< columns of one output step
  std::string data_name = "data", hidden_name = "hidden";    ///< node sets of the graph
};

}  // namespace boreas

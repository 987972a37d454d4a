// Products by cuBLASLt. It sees matrices by columns: a row-major tensor [R, C] is its C x R matrix, so y = x W^T is
// y' = W x' there, with the bias along the rows, as its epilogues want it.
#include <cublasLt.h>

#include <array>
#include <map>
#include <span>
#include <type_traits>

#include "kernels/activation/activation.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/map.cuh"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_kernels.cuh"

namespace boreas {

namespace {

using namespace cuda;

#define BOREAS_CUBLAS(op, call)                                                                                       \
  do {                                                                                                                \
    const cublasStatus_t status_ = (call);                                                                            \
    BOREAS_CHECK(status_ == CUBLAS_STATUS_SUCCESS, device, "{}: cuBLASLt: {}", op, cublasLtGetStatusString(status_)); \
  } while (false)

/// d = epilogue(op(a) op(b) + c); op transposes or not. All are matrices as cuBLASLt sees them.
struct Product {
  const char* name;
  Tensor a, b;
  bool transpose_a = false, transpose_b = false;
  Tensor c;  ///< empty: nothing is added
  Tensor d;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  Tensor bias, aux;
};

cudaDataType_t type_of(const Tensor& tensor) { return tensor.dtype() == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// Of a tensor of one row, which may have any.
int64_t stride_of(const Tensor& tensor) {
  return tensor.rows() <= 1 ? std::max<int64_t>(tensor.cols(), 1) : tensor.row_stride();
}

/// In bytes. No more than rows have in the end, so that the algorithm does not depend on where the arena puts a tensor.
uint32_t alignment_of(const Tensor& tensor) {
  const uint64_t address = reinterpret_cast<uintptr_t>(tensor.data()) | uint64_t{16};
  return uint32_t(address & -address);
}

class CublasLt {
 public:
  explicit CublasLt(Context& ctx) : workspace_(ctx.library_workspace().data()) {
    BOREAS_CUBLAS("linear", cublasLtCreate(&handle_));
  }
  ~CublasLt() { cublasLtDestroy(handle_); }
  CublasLt(const CublasLt&) = delete;

  /// Whether the library has an algorithm for it: not every epilogue goes with every type and layout.
  bool knows(Context& ctx, const Product& p) { return plan_of(ctx, p).found; }

  void multiply(Context& ctx, const Product& p) {
    Plan& plan = plan_of(ctx, p);
    BOREAS_CHECK(plan.found, unsupported, "{}: no algorithm for this product", describe(p));
    set_pointers(p, plan);
    const float alpha = 1, beta = p.c ? 1 : 0;
    BOREAS_CUBLAS(p.name, cublasLtMatmul(handle_, &plan.operation, &alpha, p.a.data(), &plan.a, p.b.data(), &plan.b,
                                         &beta, p.c ? p.c.data() : p.d.data(), &plan.c, p.d.data(), &plan.d,
                                         &plan.algorithm, workspace_, Context::kLibraryWorkspaceBytes, stream_of(ctx)));
  }

 private:
  struct Plan {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, c, d;
    cublasLtMatmulAlgo_t algorithm;
    bool found = false;
  };
  using Key = std::array<int64_t, 17>;

  template <class T>
  static void set(const char* op, Plan& plan, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    BOREAS_CUBLAS(op, cublasLtMatmulDescSetAttribute(&plan.operation, attribute, &value, sizeof(value)));
  }

  static void set_pointers(const Product& p, Plan& plan) {
    if (p.bias) set(p.name, plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.data());
    if (p.aux) set(p.name, plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux.data());
  }

  /// The plan of a product of this kind, made when it is first met. Device and library do not change within a context.
  Plan& plan_of(Context& ctx, const Product& p) {
    const Tensor& c = p.c ? p.c : p.d;
    const int64_t kinds = p.transpose_a + 2 * p.transpose_b + 4 * bool(p.c) + 8 * int64_t(p.a.dtype()) +
                          64 * int64_t(p.d.dtype()) + 512 * int64_t(p.epilogue);
    Key key{p.a.rows(),     p.a.cols(),   stride_of(p.a), p.b.rows(),       p.b.cols(), p.d.rows(),
            stride_of(p.b), stride_of(c), stride_of(p.d), stride_of(p.aux), kinds};
    size_t at = 11;
    for (const Tensor* tensor : {&p.a, &p.b, &c, &p.d, &p.bias, &p.aux}) key[at++] = alignment_of(*tensor);
    const auto [entry, is_new] = plans_.try_emplace(key);
    if (is_new) {
      try {
        make_plan(ctx, p, c, entry->second);
      } catch (...) {
        plans_.erase(entry);
        throw;
      }
    }
    return entry->second;
  }

  void make_plan(Context& ctx, const Product& p, const Tensor& c, Plan& plan) {
    BOREAS_CUBLAS(p.name, cublasLtMatmulDescInit(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(p.name, plan, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(p.name, plan, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(p.name, plan, CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
    if (p.bias) set(p.name, plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(p.bias));
    if (p.aux) set(p.name, plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, stride_of(p.aux));
    set_pointers(p, plan);  // the heuristic sees their alignment
    const auto init_layout = [&](cublasLtMatrixLayoutOpaque_t& layout, const Tensor& tensor) {
      BOREAS_CUBLAS(
          p.name, cublasLtMatrixLayoutInit(&layout, type_of(tensor), tensor.cols(), tensor.rows(), stride_of(tensor)));
    };
    init_layout(plan.a, p.a);
    init_layout(plan.b, p.b);
    init_layout(plan.c, c);
    init_layout(plan.d, p.d);

    cublasLtMatmulPreferenceOpaque_t preference;
    BOREAS_CUBLAS(p.name, cublasLtMatmulPreferenceInit(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      BOREAS_CUBLAS(p.name, cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(Context::kLibraryWorkspaceBytes));
    // Parts of a sum that is split are added in a fixed order and in f32: not by atomics, not rounded.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.a));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.b));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.d));
    std::array<cublasLtMatmulHeuristicResult_t, 8> results{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, &plan.operation, &plan.a, &plan.b, &plan.c, &plan.d, &preference,
                                       int(results.size()), results.data(), &found);
    plan.found = status == CUBLAS_STATUS_SUCCESS && found > 0 && results[0].state == CUBLAS_STATUS_SUCCESS;
    if (!plan.found) {
      if (ctx.log_debug) ctx.log_debug(describe(p) + ": no algorithm");
      return;
    }
    const Result result = choose(p, plan, std::span(results).first(size_t(found)));
    plan.algorithm = result.algo;
    if (ctx.log_debug) ctx.log_debug(describe(p) + describe(result));
  }

  using Result = cublasLtMatmulHeuristicResult_t;

  /// The heuristic's first choice, with exceptions that were measured (docs/kernels_dense.md).
  Result choose(const Product& p, Plan& plan, std::span<const Result> results) const {
    const Result& first = results[0];
    const int64_t terms = p.transpose_a ? p.a.cols() : p.a.rows();
    const auto is_tma = [](const Result& result) {
      return result.state == CUBLAS_STATUS_SUCCESS && get(result, CUBLASLT_ALGO_CONFIG_ID, int32_t{}) == kTmaKernels;
    };
    if (p.d.rows() < kManyRows) return first;
    // Blocks that stay resident: a cluster shape that leaves multiprocessors idle costs their share.
    if (first.wavesCount < kFull)
      for (const Result& other : results)
        if (other.state == CUBLAS_STATUS_SUCCESS && other.wavesCount >= kFull && other.wavesCount < 1.01f) return other;
    // Short sums: what counts is that one half of a block stores while the other multiplies.
    if (p.transpose_a && !p.transpose_b && terms <= kVeryShortSum && p.d.cols() >= kManyColumns)
      for (const Result& other : results)
        if (Result overlapping = other; is_tma(other) && make_overlapping(plan, overlapping)) return overlapping;
    if (!p.transpose_b && terms % 64 == 0 && terms <= kShortSum)
      for (const Result& other : results) {
        const auto option = get(other, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, uint32_t{});
        if (is_tma(other) && (option == 1 || option == 3)) return other;
      }
    return first;
  }

  /// Gives a TMA kernel tiles of 128 x 160 on which its two warp groups take turns; false if it has none such.
  bool make_overlapping(Plan& plan, Result& result) const {
    const auto set_config = [&](cublasLtMatmulAlgoConfigAttributes_t attribute, auto value) {
      return cublasLtMatmulAlgoConfigSetAttribute(&result.algo, attribute, &value, sizeof(value)) ==
             CUBLAS_STATUS_SUCCESS;
    };
    Result checked{};
    if (!set_config(CUBLASLT_ALGO_CONFIG_TILE_ID, uint32_t{CUBLASLT_MATMUL_TILE_128x160}) ||
        !set_config(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, uint16_t{CUBLASLT_CLUSTER_SHAPE_2x1x1}) ||
        !set_config(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, kTakingTurns) ||
        cublasLtMatmulAlgoCheck(handle_, &plan.operation, &plan.a, &plan.b, &plan.c, &plan.d, &result.algo, &checked) !=
            CUBLAS_STATUS_SUCCESS ||
        checked.workspaceSize > size_t(Context::kLibraryWorkspaceBytes))
      return false;
    result.workspaceSize = checked.workspaceSize;
    return true;
  }

  static constexpr int64_t kManyRows = 30'000, kManyColumns = 512, kShortSum = 1024, kVeryShortSum = 512;
  static constexpr float kFull = 0.995f;
  static constexpr int32_t kTmaKernels = 66;
  static constexpr uint32_t kTakingTurns = 1;

  template <class T>
  static T get(const Result& result, cublasLtMatmulAlgoConfigAttributes_t attribute, T value) {
    size_t written = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&result.algo, attribute, &value, sizeof(value), &written);
    return value;
  }

  static std::string describe(const Product& p) {
    return fmt::format("{}: a={} stride {} b={} stride {} d={} stride {} epilogue={} cublaslt={}", p.name,
                       to_string(p.a), stride_of(p.a), to_string(p.b), stride_of(p.b), to_string(p.d), stride_of(p.d),
                       int(p.epilogue), cublasLtGetVersion());
  }

  static std::string describe(const Result& result) {
    return fmt::format(" algorithm={} tile={} stages={} cluster={} option={} split_k={} workspace_bytes={}",
                       get(result, CUBLASLT_ALGO_CONFIG_ID, int32_t{}),
                       get(result, CUBLASLT_ALGO_CONFIG_TILE_ID, uint32_t{}),
                       get(result, CUBLASLT_ALGO_CONFIG_STAGES_ID, uint32_t{}),
                       get(result, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, uint16_t{}),
                       get(result, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, uint32_t{}),
                       get(result, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, int32_t{}), result.workspaceSize);
  }

  void* workspace_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

void check_type(const char* op, DType dtype) {
  BOREAS_CHECK(dtype != DType::f64, unsupported, "{} computes in f32 or bf16 on a GPU, not in f64", op);
}

/// The bias for a result of `size` columns, in the type of y and aligned to 16 bytes: itself, or a copy.
Tensor bias_for_product(const LinearForward& op, int64_t size, void* scratch, cudaStream_t stream) {
  if (!op.bias || (op.bias.dtype() == op.y.dtype() && alignment_of(op.bias) == 16 && op.bias.size() == size))
    return op.bias;
  const Tensor copy(scratch, op.y.dtype(), {size}, op.y.device());
  if (op.bias.dtype() == DType::f32)
    launch_convert_vector<float, float>(op.bias, copy, stream);
  else if (op.y.dtype() == DType::f32)
    launch_convert_vector<bfloat16, float>(op.bias, copy, stream);
  else
    launch_convert_vector<bfloat16, bfloat16>(op.bias, copy, stream);
  return copy;
}

/// The weight itself, or its copy with zeros around it.
Tensor weight_for_product(const Tensor& weight, const ScratchMatrix& copy, cudaStream_t stream) {
  if (copy) launch_pad_matrix(weight, *copy, stream);
  return copy.or_else(weight);
}

/// Whether GELU may be part of a product that also writes or reads this matrix (which may be empty).
bool fuses_gelu(LinearEpilogue epilogue, DType dtype, const Tensor& aux) {
  return epilogue != LinearEpilogue::separate && dtype == DType::bf16 &&
         (aux.empty() || (stride_of(aux) % 8 == 0 && alignment_of(aux) == 16));
}

}  // namespace

void cuda::launch(Backend, Context& ctx, const LinearForward& op, Tensor scratch_memory) {
  const DType dtype = op.x.dtype();
  check_type(op.name, dtype);
  if (op.y.size() == 0) return;
  const bool gelu = op.activation == Activation::gelu;
  const LinearForwardScratch scratch(op, scratch_memory.data());
  const Tensor y = gelu && op.pre_activation ? op.pre_activation : scratch.result.or_else(op.y);
  Product product{.name = op.name,
                  .a = weight_for_product(op.weight, scratch.weight, stream_of(ctx)),
                  .b = dtype == DType::bf16 ? op.x : op.x.columns({0, op.weight.cols()}),
                  .transpose_a = true,
                  .c = op.residual,
                  .d = y,
                  .epilogue = op.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT,
                  .bias = bias_for_product(op, y.cols(), scratch.bias, stream_of(ctx))};
  CublasLt& library = ctx.library<CublasLt>();
  if (gelu && fuses_gelu(op.epilogue, op.x.dtype(), op.pre_activation)) {
    Product fused = product;
    fused.d = op.y;
    fused.aux = op.pre_activation;
    fused.epilogue = op.pre_activation ? (op.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX)
                                       : (op.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU);
    if (library.knows(ctx, fused)) return library.multiply(ctx, fused);
  }
  library.multiply(ctx, product);
  if (gelu) launch(Backend{}, ctx, GeluForward{.x = product.d, .y = op.y}, {});
  if (scratch.result) copy_bytes_of_rows(ctx, y.columns({0, op.y.cols()}), op.y);
}

void cuda::launch(Backend, Context& ctx, const LinearBackward& op, Tensor scratch_memory) {
  const DType dtype = op.storage_type();
  check_type(op.name, dtype);
  if (op.d_y.size() == 0) return;
  CublasLt& library = ctx.library<CublasLt>();
  const LinearScratch scratch(op, dtype, scratch_memory.data());
  const Tensor d_y = scratch.rounded.or_else(op.d_y);
  const bool wants_weight = op.d_weight && op.d_weight.size() > 0, wants_x = op.d_x && op.d_x.size() > 0;
  Product weight_product{.name = op.name, .b = d_y, .transpose_b = true};
  if (wants_weight) {
    weight_product.a = dtype == DType::bf16 ? op.x : op.x.columns({0, op.d_weight.cols()});
    weight_product.d = scratch.d_weight.or_else(op.d_weight);
    if (!scratch.d_weight) weight_product.c = op.d_weight;
  }
  bool fuses_bias = false;
  if (op.d_bias && wants_weight && op.epilogue == LinearEpilogue::fused && dtype == DType::bf16 && !scratch.rounded) {
    Product fused = weight_product;
    fused.epilogue = CUBLASLT_EPILOGUE_BGRADB;
    fused.bias = Tensor(scratch.partial_sums, DType::f32, {op.d_bias.size()}, op.d_y.device());
    fuses_bias = library.knows(ctx, fused);
    if (fuses_bias) weight_product = fused;
  }
  if ((op.d_bias && !fuses_bias) || scratch.rounded) {
    LinearBackward sums = op;
    if (fuses_bias) sums.d_bias = {};
    if (op.d_y.dtype() == DType::bf16)
      launch_sum_columns<bfloat16>(sums, scratch, stream_of(ctx));
    else
      launch_sum_columns<float>(sums, scratch, stream_of(ctx));
  }
  if (wants_weight) library.multiply(ctx, weight_product);
  if (wants_weight && scratch.d_weight) {
    const Tensor sums = (*scratch.d_weight).slice({0, op.d_weight.rows()}).columns({0, op.d_weight.cols()});
    launch_map<float, const float, const float>(ctx, Sum{}, op.d_weight, op.d_weight, sums);
  }
  if (fuses_bias)
    launch_add_partial_sums<float>(scratch.partial_sums, 1, op.d_bias.size(), op.d_bias.size(), op.d_bias.as<float>(),
                                   nullptr, stream_of(ctx));
  if (!wants_x) return;
  const Product product{.name = op.name,
                        .a = weight_for_product(op.weight, scratch.weight, stream_of(ctx)),
                        .b = d_y,
                        .c = op.accumulate_d_x ? op.d_x : Tensor(),
                        .d = op.d_x};
  if (op.pre_activation && fuses_gelu(op.epilogue, dtype, op.pre_activation)) {
    Product fused = product;
    fused.epilogue = CUBLASLT_EPILOGUE_DGELU;
    fused.aux = op.pre_activation;
    if (library.knows(ctx, fused)) return library.multiply(ctx, fused);
  }
  library.multiply(ctx, product);
  if (op.pre_activation) launch(Backend{}, ctx, GeluBackward{.x = op.pre_activation, .d_y = op.d_x, .d_x = op.d_x}, {});
}

}  // namespace boreas

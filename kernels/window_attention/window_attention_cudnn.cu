// Windowed attention by cuDNN: what the kernels of this folder can be held against, never chosen unless named. Tensors
// are used where they lie, as [1, H, S, D] with the strides of rows and heads; the window is cuDNN's diagonal band.
//
// On Hopper its repeatable backward keeps dS of all pairs, so that it runs head by head to need S * S numbers, not
// H * S * S; it reads stats only as [S] of one head, so that they are laid out anew.
#ifdef BOREAS_WITH_CUDNN

#include <cstring>  // which cudnn_frontend.h leaves to others
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <bit>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kernels/window_attention/window_attention_launch.cuh"

namespace boreas::cuda {

namespace {

namespace fe = cudnn_frontend;
using namespace window_attention;

enum Id : int64_t { kQ = 1, kK, kV, kO, kStats, kDO, kDQ, kDK, kDV };
using Layouts = std::vector<std::pair<Id, Tensor>>;
using Attributes = fe::graph::Tensor_attributes;

Layouts rows_in(const WindowAttentionForward& op) { return {{kQ, op.q}, {kK, op.k}, {kV, op.v}, {kO, op.o}}; }
Layouts rows_in(const WindowAttentionBackward& op) {
  return {{kQ, op.q}, {kK, op.k}, {kV, op.v}, {kO, op.o}, {kDO, op.d_o}, {kDQ, op.d_q}, {kDK, op.d_k}, {kDV, op.d_v}};
}

int64_t stride_of(const Tensor& tensor) { return tensor.rows() <= 1 ? tensor.cols() : tensor.row_stride(); }

/// The graph of an op over `heads` of its heads, and the plan that cuDNN made of it.
class Plan {
 public:
  Plan(cudnnHandle_t handle, const WindowAttentionForward& op)
      : length_(op.q.rows()), heads_(op.num_heads), head_size_(head_size_of(op)) {
    auto attributes = options_of<fe::graph::SDPA_attributes>(op);
    attributes.set_generate_stats(true);
    const auto [o, stats] = graph_.sdpa(input(kQ, op.q), input(kK, op.k), input(kV, op.v), attributes);
    set_rows(o->set_output(true), kO, op.o);
    set_stats(stats->set_output(true), stride_of(op.stats));
    build(handle, op.name, Context::kLibraryWorkspaceBytes);
  }

  Plan(cudnnHandle_t handle, const WindowAttentionBackward& op)
      : length_(op.q.rows()), heads_(1), head_size_(head_size_of(op)) {
    auto attributes = options_of<fe::graph::SDPA_backward_attributes>(op);
    attributes.set_deterministic_algorithm(true);
    Attributes stats;
    set_stats(stats, 1);
    const auto [d_q, d_k, d_v] =
        graph_.sdpa_backward(input(kQ, op.q), input(kK, op.k), input(kV, op.v), input(kO, op.o), input(kDO, op.d_o),
                             graph_.tensor(stats), attributes);
    set_rows(d_q->set_output(true), kDQ, op.d_q);
    set_rows(d_k->set_output(true), kDK, op.d_k);
    set_rows(d_v->set_output(true), kDV, op.d_v);
    build(handle, op.name, cudnn_workspace_bytes(op));
  }

  void run(cudnnHandle_t handle, const char* op, std::unordered_map<int64_t, void*> data, void* workspace) const {
    const fe::error_t status = graph_.execute(handle, data, workspace);
    BOREAS_CHECK(status.is_good(), device, "{}: cuDNN {}: {}", op, cudnnGetVersion(), status.err_msg);
  }

 private:
  template <class Options, class Op>
  Options options_of(const Op& op) {
    graph_.set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    Options options;
    options.set_attn_scale(float(scale_of(op)));
    if (const int window = int(window_of(op)); window < length_ - 1)
      options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
          .set_diagonal_band_left_bound(window + 1)  // keeps i - j < bound
          .set_diagonal_band_right_bound(window);    // keeps j - i <= bound
    return options;
  }

  void set_rows(Attributes& attributes, Id id, const Tensor& tensor) const {
    const int64_t stride = stride_of(tensor);
    attributes.set_uid(id)
        .set_dim({1, heads_, length_, head_size_})
        .set_stride({length_ * stride, head_size_, stride, 1});
    attributes.set_data_type(fe::DataType_t::BFLOAT16);
  }

  /// Heads lie side by side, as channels do; of one head, their stride does not count.
  void set_stats(Attributes& attributes, int64_t stride) const {
    attributes.set_uid(kStats).set_dim({1, heads_, length_, 1});
    attributes.set_stride({length_ * stride, heads_ == 1 ? length_ * stride : 1, stride, 1});
    attributes.set_data_type(fe::DataType_t::FLOAT);
  }

  std::shared_ptr<Attributes> input(Id id, const Tensor& tensor) {
    Attributes attributes;
    set_rows(attributes, id, tensor);
    return graph_.tensor(attributes);
  }

  void build(cudnnHandle_t handle, const char* op, int64_t workspace_bytes) {
    const auto check = [&](const fe::error_t& status) {
      BOREAS_CHECK(status.is_good(), unsupported,
                   "{}: cuDNN {} has no plan for {} rows with {} heads of {} channels: {}", op, cudnnGetVersion(),
                   length_, heads_, head_size_, status.err_msg);
    };
    int64_t wanted = 0;
    check(graph_.build(handle, {fe::HeurMode_t::A}));
    check(graph_.get_workspace_size(wanted));
    BOREAS_CHECK(wanted <= workspace_bytes, unsupported, "{}: cuDNN {} needs {} bytes to compute in; {} are planned",
                 op, cudnnGetVersion(), wanted, workspace_bytes);
  }

  int64_t length_, heads_, head_size_;
  fe::graph::Graph graph_;
};

/// The library with its plans. Device and stream do not change within a context; a plan is made when an op of its kind
/// first runs, which is never while work is recorded.
class Cudnn {
 public:
  explicit Cudnn(Context& ctx) {
    check(cudnnCreate(&handle_));
    check(cudnnSetStream(handle_, stream_of(ctx)));
  }
  ~Cudnn() { cudnnDestroy(handle_); }
  Cudnn(const Cudnn&) = delete;

  cudnnHandle_t handle() const { return handle_; }

  template <class Op>
  const Plan& plan_of(const Op& op) {
    std::vector<int64_t> key{
        op.q.rows(),        op.q.cols(), op.num_heads, window_of(op), std::bit_cast<int64_t>(scale_of(op)),
        stride_of(op.stats)};
    for (const auto& [id, tensor] : rows_in(op)) key.push_back(stride_of(tensor));
    std::unique_ptr<Plan>& plan = plans_[key];
    if (!plan) plan = std::make_unique<Plan>(handle_, op);
    return *plan;
  }

 private:
  static void check(cudnnStatus_t status) {
    BOREAS_CHECK(status == CUDNN_STATUS_SUCCESS, device, "cuDNN: {}", cudnnGetErrorString(status));
  }

  cudnnHandle_t handle_ = nullptr;
  std::map<std::vector<int64_t>, std::unique_ptr<Plan>> plans_;  // as many strides as the direction has tensors
};

/// Over the row terms: stats of a head in one piece.
__global__ void __launch_bounds__(kThreads) stats_by_heads(const Backward<bfloat16> p) {
  const int64_t pair = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = pair / p.n.num_heads;
  const int head = int(pair % p.n.num_heads);
  if (row < p.n.length) p.log2_sum[head * p.padded_length + row] = *p.stats.at(row, head);
}

}  // namespace

void window_attention_cudnn(Context& ctx, const WindowAttentionForward& op, Tensor) {
  Cudnn& library = ctx.library<Cudnn>();
  std::unordered_map<int64_t, void*> data{{kStats, op.stats.data()}};
  for (const auto& [id, tensor] : rows_in(op)) data[id] = tensor.data();
  library.plan_of(op).run(library.handle(), op.name, data, ctx.library_workspace().data());
}

void window_attention_cudnn(Context& ctx, const WindowAttentionBackward& op, Tensor scratch) {
  Cudnn& library = ctx.library<Cudnn>();
  const Plan& plan = library.plan_of(op);
  ScratchPieces pieces(scratch.data());
  const RowTerms terms(pieces, op);
  void* const workspace = pieces.take<char>(cudnn_workspace_bytes(op));
  const int64_t blocks = (op.q.rows() * op.num_heads + kThreads - 1) / kThreads;
  launch_kernel(stats_by_heads, unsigned(blocks), kThreads, 0, stream_of(ctx), parameters_of<bfloat16>(op, scratch));
  const int64_t head_size = head_size_of(op);
  for (int64_t head = 0; head < op.num_heads; ++head) {
    std::unordered_map<int64_t, void*> data{{kStats, terms.log2_sum + head * terms.padded_length}};
    for (const auto& [id, tensor] : rows_in(op))
      data[id] = tensor.columns({head * head_size, (head + 1) * head_size}).data();
    plan.run(library.handle(), op.name, data, workspace);
  }
}

}  // namespace boreas::cuda

#endif

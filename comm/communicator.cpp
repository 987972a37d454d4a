#include "comm/communicator.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "comm/nccl_group.h"
#include "comm/traffic.h"
#include "kernels/elementwise/elementwise.h"

namespace boreas {

namespace {

// Scratch of an all-reduce, whatever the size of what it reduces; on a GPU large enough that the time to start a
// transfer does not count.
constexpr int64_t kSlabBytes = int64_t{16} << 20, kGpuSlabBytes = int64_t{64} << 20;

/// With one rank a sum is its only term and the root is oneself.
class SingleRank final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void connect(Device) override {}
  std::vector<std::vector<int64_t>> all_to_all(const std::vector<std::vector<int64_t>>& lists) override {
    return lists;
  }
  std::vector<std::string> all_gather_text(const std::string& text) override { return {text}; }
  void barrier() override {}
  std::unique_ptr<Communicator> split(int) override { return std::make_unique<SingleRank>(); }
  [[noreturn]] void abort(const std::string& message, int status) override {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(status);
  }

 protected:
  void transfer(const Stream&, std::span<const Rows>, std::span<const Rows>) override {}
};

/// Where the messages of a context travel. All of them: two groups whose messages overtook each other would wait for
/// each other.
struct Road {
  explicit Road(Context& ctx) : stream(ctx.device(), Stream::Priority::high), begin(ctx.device()), end(ctx.device()) {}
  Stream stream;
  Event begin, end;
};

/// A contiguous tensor as one row.
Tensor flat(const Tensor& x) { return x.reshape({1, x.size()}); }

}  // namespace

std::unique_ptr<Communicator> make_single_rank_communicator() { return std::make_unique<SingleRank>(); }

void Communicator::exchange(Context& ctx, std::span<const Rows> send, std::span<const Rows> receive) {
  Event& end = ctx.library<Road>().end;
  start_exchange(ctx, send, receive, end);
  finish_exchange(ctx, end);
}

void Communicator::start_exchange(Context& ctx, std::span<const Rows> send, std::span<const Rows> receive,
                                  Event& done) {
  for (const auto& side : {send, receive})
    for (const Rows& message : side) {
      BOREAS_CHECK(message.rank >= 0 && message.rank < size() && message.rank != rank(), invalid_argument,
                   "exchange: rank {} of {} names {} as its peer", rank(), size(), message.rank);
      BOREAS_CHECK(message.rows.contiguous(), invalid_argument, "exchange: {} is not contiguous",
                   to_string(message.rows));
      BOREAS_CHECK(message.rows.device() == ctx.device(), invalid_argument,
                   "exchange: rows lie on {} but the context computes on {}", to_string(message.rows.device()),
                   to_string(ctx.device()));
    }
  if (ctx.planning() || (send.empty() && receive.empty())) return;
  int64_t bytes = 0;
  for (const Rows& message : send) bytes += message.rows.bytes();
  bytes_sent_ += bytes;
  Traffic::of(ctx).add_exchange(ctx, bytes);
  Road& road = ctx.library<Road>();
  road.begin.record(ctx.compute());
  road.stream.wait(road.begin);
  std::optional<Traffic::Wait> at_once;
  if (!ctx.device().is_cuda()) at_once.emplace(ctx);
  transfer(road.stream, send, receive);
  done.record(road.stream);
}

void Communicator::finish_exchange(Context& ctx, const Event& done) {
  if (ctx.planning()) return;
  const Traffic::Wait wait(ctx);
  ctx.compute().wait(done);
}

void Communicator::all_gather_messages(const Partition& parts, const Tensor& whole, std::vector<Rows>& send,
                                       std::vector<Rows>& receive) const {
  BOREAS_CHECK(parts.num_parts() == size() && parts.size() == whole.rows(), shape,
               "all_gather_rows: {} parts of {} rows do not fit {} ranks and {}", parts.num_parts(), parts.size(),
               size(), to_string(whole));
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    send.push_back({peer, whole.slice(parts[rank()])});
    receive.push_back({peer, whole.slice(parts[peer])});
  }
}

void Communicator::all_gather_rows(Context& ctx, const Partition& parts, const Tensor& whole) {
  std::vector<Rows> send, receive;
  all_gather_messages(parts, whole, send, receive);
  exchange(ctx, send, receive);
}

namespace {

/// Rows of `room` that hold what a peer sent.
Tensor place_of(int peer, int rank, int64_t own_rows, const Tensor& room) {
  const int64_t index = peer < rank ? peer : peer - 1;
  return room.slice({index * own_rows, (index + 1) * own_rows});
}

}  // namespace

void Communicator::reduce_scatter_rows(Context& ctx, const Partition& parts, const Tensor& whole) {
  BOREAS_CHECK(parts.num_parts() == size() && parts.size() == whole.rows(), shape,
               "reduce_scatter_rows: {} parts of {} rows do not fit {} ranks and {}", parts.num_parts(), parts.size(),
               size(), to_string(whole));
  if (size() == 1) return;
  const Scope scope(ctx);
  const Tensor room = ctx.alloc(Keep::scratch, whole.dtype(), {(size() - 1) * parts[rank()].size(), whole.cols()});
  Event done(ctx.device());
  start_reduce_scatter(ctx, parts, whole, room, done);
  finish_reduce_scatter(ctx, parts, whole, room, done);
}

void Communicator::start_reduce_scatter(Context& ctx, const Partition& parts, const Tensor& whole, const Tensor& room,
                                        Event& done) {
  std::vector<Rows> send, receive;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    send.push_back({peer, whole.slice(parts[peer])});
    receive.push_back({peer, place_of(peer, rank(), parts[rank()].size(), room)});
  }
  start_exchange(ctx, send, receive, done);
}

void Communicator::finish_reduce_scatter(Context& ctx, const Partition& parts, const Tensor& whole, const Tensor& room,
                                         const Event& done) {
  finish_exchange(ctx, done);
  const Tensor own = whole.slice(parts[rank()]);
  const auto place = [&](int peer) { return place_of(peer, rank(), own.rows(), room); };
  // ((r0 + r1) + r2) + ...: the running sum starts in the place of rank 0.
  Tensor sum = rank() == 0 ? own : place(0);
  for (int peer = 1; peer < size(); ++peer) {
    const Tensor term = peer == rank() ? own : place(peer);
    const Tensor to = peer + 1 == size() ? own : sum;
    run(ctx, Add{.a = flat(sum), .b = flat(term), .y = flat(to)});
    sum = to;
  }
}

void Communicator::all_reduce(Context& ctx, const Tensor& x) {
  if (size() == 1 || x.size() == 0) return;
  BOREAS_CHECK(x.contiguous(), invalid_argument, "all_reduce: {} is not contiguous", to_string(x));
  const Tensor values = flat(x);
  const int64_t slab = (ctx.device().is_cuda() ? kGpuSlabBytes : kSlabBytes) / size_of(x.dtype());
  for (int64_t begin = 0; begin < values.cols(); begin += slab) {
    const int64_t count = std::min(slab, values.cols() - begin);
    const Tensor column = values.columns({begin, begin + count}).reshape({count, 1});
    const Partition parts = Partition::balanced(count, size());
    reduce_scatter_rows(ctx, parts, column);
    all_gather_rows(ctx, parts, column);
  }
}

void Communicator::broadcast(Context& ctx, const Tensor& x, int root) {
  BOREAS_CHECK(root >= 0 && root < size(), comm, "broadcast from rank {} in a group of {}", root, size());
  std::vector<Rows> send, receive;
  if (rank() == root) {
    for (int peer = 0; peer < size(); ++peer)
      if (peer != root) send.push_back({peer, x});
  } else {
    receive.push_back({root, x});
  }
  exchange(ctx, send, receive);
}

void Communicator::sum_values(std::span<double> values) {
  std::vector<int64_t> bits;
  for (const double value : values) bits.push_back(std::bit_cast<int64_t>(value));
  const auto of_rank = all_to_all(std::vector<std::vector<int64_t>>(size_t(size()), bits));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::bit_cast<double>(of_rank[0][i]);
    for (size_t r = 1; r < of_rank.size(); ++r) values[i] += std::bit_cast<double>(of_rank[r][i]);
  }
}

int64_t Communicator::largest(int64_t value) {
  const auto of_rank = all_to_all(std::vector<std::vector<int64_t>>(size_t(size()), {value}));
  for (const auto& list : of_rank) value = std::max(value, list[0]);
  return value;
}

std::string Communicator::text_of(int root, const std::string& text) {
  return all_gather_text(rank() == root ? text : std::string())[size_t(root)];
}

std::string Communicator::why_not_on(Device device) {
  if (size() == 1) return {};
  // Of each rank its GPU, or why it has none.
  std::string problem = device.is_cuda() ? why_no_nccl() : "it has no GPU";
  const std::string gpu = problem.empty() ? fmt::format("{}, {}", name_of(device), uuid_of(device)) : std::string();
  const std::vector<std::string> problems = all_gather_text(problem), gpus = all_gather_text(gpu);
  for (size_t i = 0; i < problems.size(); ++i)
    if (!problems[i].empty()) return fmt::format("rank {} cannot compute on a GPU: {}", i, problems[i]);
  if (ranks_share_gpus()) return {};
  for (size_t i = 0; i < gpus.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (gpus[i] == gpus[j])
        return fmt::format("ranks {} and {} have the same GPU ({}), and each needs one of its own", j, i, gpus[i]);
  return {};
}

void check_agreement(Communicator& ranks, const std::string& what, const std::string& text) {
  const std::vector<std::string> texts = ranks.all_gather_text(text);
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    const auto first = std::mismatch(texts[0].begin(), texts[0].end(), texts[rank].begin(), texts[rank].end());
    const auto line_at = [](const std::string& whole, size_t position) {
      const size_t begin = whole.rfind('\n', position ? position - 1 : 0);
      const size_t from = begin == std::string::npos ? 0 : begin + 1;
      return whole.substr(from, std::min<size_t>(whole.find('\n', position), from + 200) - from);
    };
    BOREAS_FAIL(config,
                "the {} of rank {} differs from that of rank 0: \"{}\" there, \"{}\" here. Start all ranks "
                "with the same program, files and arguments",
                what, rank, line_at(texts[rank], size_t(first.second - texts[rank].begin())),
                line_at(texts[0], size_t(first.first - texts[0].begin())));
  }
}

int64_t model_ranks_of(int64_t num_ranks, int64_t model_ranks, int64_t ensemble_ranks) {
  BOREAS_CHECK(num_ranks > 0 && ensemble_ranks > 0 && num_ranks % ensemble_ranks == 0, config,
               "parallel.ensemble_ranks is {}, which does not divide the {} ranks of this job; choose a divisor",
               ensemble_ranks, num_ranks);
  const int64_t most = num_ranks / ensemble_ranks;
  if (model_ranks == 0) return most;
  BOREAS_CHECK(model_ranks > 0 && most % model_ranks == 0, config,
               "parallel.model_ranks is {}, which does not divide the {} ranks of this job{}; choose a divisor, or 0 "
               "for all",
               model_ranks, num_ranks,
               ensemble_ranks > 1 ? fmt::format(" after parallel.ensemble_ranks={}", ensemble_ranks) : "");
  return model_ranks;
}

ProcessGrid ProcessGrid::make(std::unique_ptr<Communicator> world, int64_t model_ranks, int64_t ensemble_ranks) {
  model_ranks = model_ranks_of(world->size(), model_ranks, ensemble_ranks);
  const int64_t rank = world->rank(), shard = rank % model_ranks;
  ProcessGrid grid;
  grid.model = world->split(int(rank / model_ranks));
  grid.ensemble = world->split(int(rank / (model_ranks * ensemble_ranks) * model_ranks + shard));
  grid.replicas = world->split(int(shard));
  grid.world = std::move(world);
  return grid;
}

int64_t ProcessGrid::bytes_sent() const {
  int64_t bytes = 0;
  for (const Communicator* ranks : {world.get(), model.get(), ensemble.get(), replicas.get()})
    bytes += ranks->bytes_sent();
  return bytes;
}

void ProcessGrid::connect(Device device) const {
  for (Communicator* ranks : {world.get(), model.get(), ensemble.get(), replicas.get()}) ranks->connect(device);
}

const ProcessGrid& ProcessGrid::one_rank() {
  static const ProcessGrid grid = make(make_single_rank_communicator(), 1);
  return grid;
}

}  // namespace boreas

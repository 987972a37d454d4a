#ifdef BOREAS_WITH_MPI
#include <mpi.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/host_communicator.h"
#include "comm/nccl_group.h"

namespace boreas {

namespace {

using namespace std::chrono_literals;

/// Number of ranks that a launcher says it started; 1 without one.
int launched_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}) {
    const char* const value = std::getenv(name);
    if (!value) continue;
    // Slurm sets its variable in batch scripts too; only a task has a rank.
    if (std::strcmp(name, "SLURM_NTASKS") == 0 && !std::getenv("SLURM_PROCID")) continue;
    return std::max(1, std::atoi(value));
  }
  return 1;
}

#ifdef BOREAS_WITH_MPI

void check_mpi(int status, const char* what) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  BOREAS_FAIL(comm, "{} failed: {}", what, std::string(text, size_t(length)));
}

/// Prints the message with the rank, and ends all ranks. Of several threads that find something wrong the first speaks.
[[noreturn]] void end_job(const std::string& message, int status, std::chrono::milliseconds delay) {
  static std::atomic<bool> ending = false;
  if (ending.exchange(true)) std::this_thread::sleep_for(std::chrono::hours(1));
  std::this_thread::sleep_for(delay);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::fprintf(stderr, "rank %d: %s\n", rank, message.c_str());
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

/// An error that all ranks find is told by the first of them: the others are ended before they speak.
std::chrono::milliseconds delay_of(int world_rank) {
  return std::chrono::milliseconds(std::min(4000, 400 * world_rank));
}

/// Ranks wait for each other without a limit, on GPUs in kernels that ask nobody. A thread asks for them: whether NCCL
/// has failed, and whether the rank before this one is still heard of. If not, it ends the job.
class Watchdog {
 public:
  /// `failure`: empty, or what went wrong. Collective over the world, as is its end.
  explicit Watchdog(std::function<std::string()> failure) : failure_(std::move(failure)) {
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    thread_ = std::thread([this] { watch(); });
  }
  ~Watchdog() {
    MPI_Barrier(comm_);  // until here every rank is missed
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    wake_.notify_one();
    thread_.join();
    int64_t expected = 0;
    MPI_Sendrecv(&num_sent_, 1, MPI_INT64_T, after(), 1, &expected, 1, MPI_INT64_T, before(), 1, comm_,
                 MPI_STATUS_IGNORE);
    while (num_heard_ < expected) hear();
    MPI_Comm_free(&comm_);
  }
  Watchdog(const Watchdog&) = delete;

 private:
  static constexpr auto kInterval = 200ms;
  static constexpr auto kPatience = 1s;  // NCCL fails too when a rank ends; what ends it may speak first
  static constexpr int kLost = 30;       // intervals, of this rank's own time: one that was halted itself starts again

  int before() const { return (rank_ + size_ - 1) % size_; }
  int after() const { return (rank_ + 1) % size_; }
  void hear() {
    MPI_Recv(nullptr, 0, MPI_BYTE, before(), 0, comm_, MPI_STATUS_IGNORE);
    ++num_heard_;
  }

  void watch() {
    int num_silent = 0;
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kInterval, [&] { return ends_; })) {
      if (const std::string failure = failure_(); !failure.empty())
        end_job(failure, kFailed, kPatience + delay_of(rank_));
      MPI_Send(nullptr, 0, MPI_BYTE, after(), 0, comm_);
      ++num_sent_;
      ++num_silent;
      for (int arrived = 0; MPI_Iprobe(before(), 0, comm_, &arrived, MPI_STATUS_IGNORE), arrived; num_silent = 0)
        hear();
      if (num_silent == kLost)
        end_job(fmt::format("rank {} is lost: it was not heard of for {} s", before(), kLost * kInterval / 1s), kFailed,
                0s);
    }
  }

  static constexpr int kFailed = 2;
  int rank_ = 0, size_ = 1;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::function<std::string()> failure_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ends_ = false;
  int64_t num_sent_ = 0, num_heard_ = 0;
  std::thread thread_;
};

/// MPI from the first communicator to the last, the groups of NCCL, and the watchdog, which needs an MPI that several
/// threads may call. In a host program MPI is the host's, and there is no watchdog, which would end it.
class Runtime {
 public:
  explicit Runtime(MPI_Comm host) : is_guest_(true) { count_neighbours(host); }
  Runtime() {
    int provided = 0, provided_everywhere = 0;  // more than one thread calls MPI because of the watchdog
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    count_neighbours(MPI_COMM_WORLD);
    MPI_Allreduce(&provided, &provided_everywhere, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (provided_everywhere == MPI_THREAD_MULTIPLE) watchdog_.emplace([this] { return failure(); });
  }
  ~Runtime() {
    watchdog_.reset();
    groups_.clear();
    if (!is_guest_) MPI_Finalize();
  }
  Runtime(const Runtime&) = delete;

  int local_rank() const { return local_rank_; }
  /// The group of these ranks of the world, made at the first call and kept: that takes long.
  std::shared_ptr<NcclGroup> nccl_group(Communicator& ranks, const std::vector<int64_t>& members, Device device) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto known = groups_.find(members); known != groups_.end()) return known->second;
    }
    if (ranks_share_gpus()) let_ranks_share_gpus(int(members[size_t(ranks.rank())]));
    const std::string id = ranks.text_of(0, ranks.rank() == 0 ? NcclGroup::make_id() : std::string());
    const auto group = std::make_shared<NcclGroup>(id, ranks.rank(), ranks.size(), device);
    const std::lock_guard lock(mutex_);
    groups_.emplace(members, group);
    return group;
  }

 private:
  void count_neighbours(MPI_Comm comm) {
    MPI_Comm neighbours = MPI_COMM_NULL;
    MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &neighbours);
    MPI_Comm_rank(neighbours, &local_rank_);
    MPI_Comm_free(&neighbours);
  }
  std::string failure() {
    const std::lock_guard lock(mutex_);
    for (const auto& [members, group] : groups_)
      if (const std::string what = group->failure(); !what.empty())
        return fmt::format("{} (among ranks {})", what, fmt::join(members, ", "));
    return {};
  }

  bool is_guest_ = false;
  int local_rank_ = 0;
  std::mutex mutex_;
  std::map<std::vector<int64_t>, std::shared_ptr<NcclGroup>> groups_;
  std::optional<Watchdog> watchdog_;
};

class Mpi final : public Communicator {
 public:
  Mpi(std::shared_ptr<Runtime> runtime, MPI_Comm comm) : runtime_(std::move(runtime)), comm_(comm) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank_);
  }
  ~Mpi() override {
    int finalized = 0;  // a host may end MPI first
    MPI_Finalized(&finalized);
    if (comm_ != MPI_COMM_WORLD && !finalized) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return runtime_->local_rank(); }

  void connect(Device device) override {
    if (!device.is_cuda() || size_ == 1) return;
    const std::string why_not = why_not_on(device);
    BOREAS_CHECK(why_not.empty(), comm, "{}", why_not);
    std::vector<int64_t> members;
    for (const auto& list : all_to_all(std::vector<std::vector<int64_t>>(size_t(size_), {int64_t(world_rank_)})))
      members.push_back(list[0]);
    nccl_ = runtime_->nccl_group(*this, members, device);
  }

  std::vector<std::vector<int64_t>> all_to_all(const std::vector<std::vector<int64_t>>& lists) override {
    BOREAS_CHECK(int(lists.size()) == size_, invalid_argument, "all_to_all: {} lists for {} ranks", lists.size(),
                 size_);
    std::vector<int64_t> send_counts, receive_counts(lists.size());
    for (const auto& list : lists) send_counts.push_back(int64_t(list.size()));
    check_mpi(MPI_Alltoall(send_counts.data(), 1, MPI_INT64_T, receive_counts.data(), 1, MPI_INT64_T, comm_),
              "MPI_Alltoall");
    std::vector<std::vector<int64_t>> received;
    for (const int64_t count : receive_counts) received.emplace_back(size_t(count));
    std::vector<MPI_Request> requests;
    for (int peer = 0; peer < size_; ++peer) {
      const auto& list = lists[size_t(peer)];
      post(received[size_t(peer)].data(), int64_t(received[size_t(peer)].size()) * 8, peer, false, requests);
      post(const_cast<int64_t*>(list.data()), int64_t(list.size()) * 8, peer, true, requests);
    }
    wait(requests);
    return received;
  }

  std::vector<std::string> all_gather_text(const std::string& text) override {
    std::vector<int64_t> packed((text.size() + 7) / 8 + 1, 0);
    packed[0] = int64_t(text.size());
    if (!text.empty()) std::memcpy(packed.data() + 1, text.data(), text.size());
    std::vector<std::string> texts;
    for (const auto& list : all_to_all(std::vector<std::vector<int64_t>>(size_t(size_), packed)))
      texts.emplace_back(reinterpret_cast<const char*>(list.data() + 1), size_t(list[0]));
    return texts;
  }

  void barrier() override { check_mpi(MPI_Barrier(comm_), "MPI_Barrier"); }

  std::unique_ptr<Communicator> split(int group) override {
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, group, rank_, &part), "MPI_Comm_split");
    MPI_Comm_set_errhandler(part, MPI_ERRORS_RETURN);
    return std::make_unique<Mpi>(runtime_, part);
  }

  [[noreturn]] void abort(const std::string& message, int status) override {
    end_job(message, status, delay_of(world_rank_));
  }

 protected:
  void transfer(const Stream& stream, std::span<const Rows> send, std::span<const Rows> receive) override {
    if (stream.device().is_cuda()) {
      BOREAS_CHECK(nccl_, internal, "tensors on {} are exchanged before connect", to_string(stream.device()));
      return nccl_->transfer(stream, send, receive);
    }
    std::vector<MPI_Request> requests;
    for (const Rows& message : receive) post(message.rows.data(), message.rows.bytes(), message.rank, false, requests);
    for (const Rows& message : send) post(message.rows.data(), message.rows.bytes(), message.rank, true, requests);
    wait(requests);
  }

 private:
  static constexpr int64_t kMessageBytes = int64_t{1} << 30;  // MPI counts are ints

  void post(void* data, int64_t bytes, int peer, bool send, std::vector<MPI_Request>& requests) const {
    for (int64_t begin = 0; begin < bytes; begin += kMessageBytes) {
      const int count = int(std::min(kMessageBytes, bytes - begin));
      char* const from = static_cast<char*>(data) + begin;
      MPI_Request& request = requests.emplace_back();
      check_mpi(send ? MPI_Isend(from, count, MPI_BYTE, peer, 0, comm_, &request)
                     : MPI_Irecv(from, count, MPI_BYTE, peer, 0, comm_, &request),
                send ? "MPI_Isend" : "MPI_Irecv");
    }
  }

  static void wait(std::vector<MPI_Request>& requests) {
    check_mpi(MPI_Waitall(int(requests.size()), requests.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
  }

  std::shared_ptr<Runtime> runtime_;
  MPI_Comm comm_;
  int rank_ = 0, size_ = 1, world_rank_ = 0;
  std::shared_ptr<NcclGroup> nccl_;
};

std::unique_ptr<Communicator> communicator_of(MPI_Comm host) {
  BOREAS_CHECK(host != MPI_COMM_NULL, invalid_argument,
               "the communicator is MPI_COMM_NULL; give one that this rank belongs to");
  MPI_Comm own = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(host, &own), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(own, MPI_ERRORS_RETURN);
  return std::make_unique<Mpi>(std::make_shared<Runtime>(own), own);
}

void check_mpi_runs() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  BOREAS_CHECK(initialized && !finalized, invalid_argument, "a communicator was given but MPI {}; call this {}",
               finalized ? "has ended" : "was not started", finalized ? "before MPI_Finalize" : "after MPI_Init");
}

#else

[[noreturn]] void fail_without_mpi() {
  BOREAS_FAIL(unsupported,
              "a communicator was given, but this build of boreas has no MPI: install libopenmpi-dev and build again, "
              "or give none");
}

#endif

}  // namespace

std::unique_ptr<Communicator> make_world_communicator() {
  const int ranks = launched_ranks();
#ifdef BOREAS_WITH_MPI
  if (ranks > 1) return std::make_unique<Mpi>(std::make_shared<Runtime>(), MPI_COMM_WORLD);
#else
  BOREAS_CHECK(ranks == 1, unsupported,
               "{} ranks were started, but this build has no MPI: install libopenmpi-dev and build again, or start one",
               ranks);
#endif
  return make_single_rank_communicator();
}

std::unique_ptr<Communicator> make_host_communicator(const void* comm) {
  BOREAS_CHECK(comm, invalid_argument, "the address of the communicator is null");
#ifdef BOREAS_WITH_MPI
  check_mpi_runs();
  return communicator_of(*static_cast<const MPI_Comm*>(comm));
#else
  fail_without_mpi();
#endif
}

std::unique_ptr<Communicator> make_host_communicator(int fortran_comm) {
#ifdef BOREAS_WITH_MPI
  check_mpi_runs();
  return communicator_of(MPI_Comm_f2c(fortran_comm));
#else
  (void)fortran_comm;
  fail_without_mpi();
#endif
}

}  // namespace boreas

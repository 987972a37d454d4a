#ifdef BOREAS_WITH_MPI
#include <mpi.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "comm/communicator.h"

namespace boreas {

namespace {

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

/// MPI from the first communicator to the last.
class Runtime {
 public:
  Runtime() {
    int provided = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
  ~Runtime() { MPI_Finalize(); }
  Runtime(const Runtime&) = delete;
};

class Mpi final : public Communicator {
 public:
  Mpi(std::shared_ptr<Runtime> runtime, MPI_Comm comm) : runtime_(std::move(runtime)), comm_(comm) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank_);
  }
  ~Mpi() override {
    if (comm_ != MPI_COMM_WORLD) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

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
    // An error that all ranks find is told by the first of them: the others are ended before they speak.
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(4000, 400 * world_rank_)));
    std::fprintf(stderr, "rank %d: %s\n", world_rank_, message.c_str());
    std::fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

 protected:
  void transfer(Context& ctx, std::span<const Rows> send, std::span<const Rows> receive) override {
    BOREAS_CHECK(!ctx.device().is_cuda(), unsupported, "MPI ranks compute on the CPU; set device: cpu");
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
};

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

}  // namespace boreas

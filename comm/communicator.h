// Ranks talking to each other.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/context.h"
#include "kernels/core/partition.h"

namespace boreas {

/// A group of ranks. Every rank calls the collectives in the same order with shapes that fit; in plan mode they borrow
/// their scratch memory and do nothing. A transport gives `exchange` and the functions on host values; the collectives
/// are built on it here, so that sums are in rank order and repeat bit for bit, and may be replaced by faster ones.
///
/// Adjoint pairs: all_gather_rows and reduce_scatter_rows; an exchange and the one with send and receive swapped.
///
/// Tensors on a GPU travel on a stream of their own, one message after the other in the order of the calls: what comes
/// on this one after another. It forks from the context's stream and joins it again, so that both may be recorded (see
/// Recording) when the same was queued before: what ranks send each other for the first time connects them.
///
/// Errors: comm, naming the peer;  invalid_argument: rows that are not contiguous, a rank that does not exist.
class Communicator {
 public:
  struct Rows {
    int rank;     ///< the peer
    Tensor rows;  ///< contiguous
  };

  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Position among the ranks on this machine.
  virtual int local_rank() const { return 0; }

  /// Makes ready to exchange tensors on a GPU, which no other rank may have; also the groups that a split gave before
  /// must be connected, and any after. Collective; on the CPU nothing is needed. Throws comm: two ranks have one GPU.
  virtual void connect(Device device) = 0;
  /// Why the ranks cannot compute on these GPUs, the same words on all; empty if they can. Collective.
  std::string why_not_on(Device device);

  /// Sends and receives at once, in any order and without deadlock. Two messages between the same ranks keep their
  /// order. Sizes must agree on both sides.
  void exchange(Context& ctx, std::span<const Rows> send, std::span<const Rows> receive);
  /// The same beside what the context computes from here on, until it waits for `done`. Before that the rows sent may
  /// not be written, those received not be touched. On the CPU it is over at once.
  void start_exchange(Context& ctx, std::span<const Rows> send, std::span<const Rows> receive, Event& done);
  /// The context waits for `done` of start_exchange; that is counted (see Traffic).
  static void finish_exchange(Context& ctx, const Event& done);

  virtual void all_reduce(Context& ctx, const Tensor& x);           ///< x = sum of x over the ranks, in rank order
  virtual void broadcast(Context& ctx, const Tensor& x, int root);  ///< x = x of the root
  /// whole[parts[r]] = that of rank r, for all r.
  virtual void all_gather_rows(Context& ctx, const Partition& parts, const Tensor& whole);
  /// What it sends and receives, for start_exchange.
  void all_gather_messages(const Partition& parts, const Tensor& whole, std::vector<Rows>& send,
                           std::vector<Rows>& receive) const;
  /// whole[parts[rank]] = sum over the ranks of their whole[parts[rank]], in rank order; other rows keep their values.
  virtual void reduce_scatter_rows(Context& ctx, const Partition& parts, const Tensor& whole);
  /// The same in two parts, as start_exchange; `room`: [(ranks - 1) * own rows, C], for what others send.
  void start_reduce_scatter(Context& ctx, const Partition& parts, const Tensor& whole, const Tensor& room, Event& done);
  void finish_reduce_scatter(Context& ctx, const Partition& parts, const Tensor& whole, const Tensor& room,
                             const Event& done);

  /// Host values, for set-up: list r of the result is what rank r had for this one.
  virtual std::vector<std::vector<int64_t>> all_to_all(const std::vector<std::vector<int64_t>>& lists) = 0;
  virtual std::vector<std::string> all_gather_text(const std::string& text) = 0;
  virtual void barrier() = 0;

  /// The same values on all ranks afterwards: each value's sum over the ranks, in rank order.
  void sum_values(std::span<double> values);
  int64_t largest(int64_t value);
  bool any(bool value) { return largest(value) != 0; }
  std::string text_of(int root, const std::string& text);

  /// Ranks with the same `group` form one, in the order they have here.
  virtual std::unique_ptr<Communicator> split(int group) = 0;
  /// Prints the message with the rank, once if all ranks call it, and ends all ranks with that exit status.
  [[noreturn]] virtual void abort(const std::string& message, int status = 1) = 0;

  /// Bytes that this rank sent to others since it was made.
  int64_t bytes_sent() const { return bytes_sent_; }

 protected:
  virtual void transfer(const Stream& stream, std::span<const Rows> send, std::span<const Rows> receive) = 0;
  int64_t bytes_sent_ = 0;
};

/// The group of one rank.
std::unique_ptr<Communicator> make_single_rank_communicator();

/// All ranks of this job: those that mpirun or srun started, in a build with MPI; else one. Called once, by main. MPI
/// ends when the last communicator goes. Throws unsupported where several ranks were started in a build without MPI.
std::unique_ptr<Communicator> make_world_communicator();

/// Throws config, on every rank, if `text` is not the same on all; `what` names it: "configuration".
void check_agreement(Communicator& ranks, const std::string& what, const std::string& text);

/// parallel.model_ranks with 0 resolved. Throws config if it, or ensemble_ranks, does not divide the ranks.
int64_t model_ranks_of(int64_t num_ranks, int64_t model_ranks, int64_t ensemble_ranks);

/// world = data groups x ensemble groups x model groups. Consecutive ranks share the cells of a sample; groups of these
/// divide its members; groups of those train on different samples.
struct ProcessGrid {
  std::unique_ptr<Communicator> world;
  std::unique_ptr<Communicator> model;     ///< the ranks that share cells; its rank is the position of the shard
  std::unique_ptr<Communicator> ensemble;  ///< the ranks that hold the same cells of one sample, of different members
  std::unique_ptr<Communicator> replicas;  ///< the ranks that hold the same shard, of any samples and members

  /// model_ranks = 0: as many as there are for each part of the members. Throws config if these do not divide the
  /// number of ranks.
  static ProcessGrid make(std::unique_ptr<Communicator> world, int64_t model_ranks, int64_t ensemble_ranks = 1);
  /// For what runs on one rank, whatever the job has.
  static const ProcessGrid& one_rank();

  bool is_root() const { return world->rank() == 0; }
  /// Groups that train on different samples, and the position of this one.
  int num_data_groups() const { return replicas->size() / ensemble->size(); }
  int data_group() const { return replicas->rank() / ensemble->size(); }
  int64_t bytes_sent() const;         ///< by this rank, in all of them
  void connect(Device device) const;  ///< all of them
};

}  // namespace boreas

// A rank of a group that is only planned with.
#pragma once

#include <deque>

#include "comm/communicator.h"

namespace boreas {

/// Stands for one rank of many where none of the others runs: collectives may be planned, not done. Host values: what
/// other ranks say in all_to_all is given beforehand, call by call; without such an answer, and in all_gather_text,
/// they say what this rank does.
class PlannedCommunicator final : public Communicator {
 public:
  using Lists = std::vector<std::vector<int64_t>>;
  PlannedCommunicator(int rank, int size, std::deque<Lists> answers = {})
      : rank_(rank), size_(size), answers_(std::move(answers)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void connect(Device) override {}
  Lists all_to_all(const Lists& lists) override;
  std::vector<std::string> all_gather_text(const std::string& text) override {
    return std::vector<std::string>(size_t(size_), text);
  }
  void barrier() override {}
  std::unique_ptr<Communicator> split(int group) override;
  [[noreturn]] void abort(const std::string& message, int status) override;

 protected:
  void transfer(const Stream& stream, std::span<const Rows> send, std::span<const Rows> receive) override;

 private:
  int rank_, size_;
  std::deque<Lists> answers_;
};

}  // namespace boreas

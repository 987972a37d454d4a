#include "comm/planned_communicator.h"

namespace boreas {

PlannedCommunicator::Lists PlannedCommunicator::all_to_all(const Lists& lists) {
  if (answers_.empty()) return Lists(size_t(size_), lists[size_t(rank_)]);
  Lists answer = std::move(answers_.front());
  answers_.pop_front();
  return answer;
}

std::unique_ptr<Communicator> PlannedCommunicator::split(int) {
  BOREAS_FAIL(internal, "a planned group of {} ranks cannot be split", size_);
}

void PlannedCommunicator::abort(const std::string& message, int) { BOREAS_FAIL(internal, "{}", message); }

void PlannedCommunicator::transfer(const Stream&, std::span<const Rows>, std::span<const Rows>) {
  BOREAS_FAIL(internal, "ranks that are only planned with cannot exchange");
}

}  // namespace boreas

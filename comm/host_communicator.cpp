#include "comm/host_communicator.h"

#include <exception>

namespace boreas {

void run_together(Communicator& ranks, const std::function<void()>& task) {
  if (ranks.size() == 1) return task();
  std::exception_ptr failure;
  std::string message;
  try {
    task();
  } catch (const std::exception& error) {
    failure = std::current_exception();
    message = *error.what() ? error.what() : "unknown error";
  }
  const std::vector<std::string> messages = ranks.all_gather_text(message);
  if (failure) std::rethrow_exception(failure);
  for (size_t rank = 0; rank < messages.size(); ++rank)
    BOREAS_CHECK(messages[rank].empty(), comm, "rank {} failed: {}", rank, messages[rank]);
}

}  // namespace boreas

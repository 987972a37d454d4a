// Threads that read, decode and encode. One pool serves all arrays of a process.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace boreas {

/// A fixed number of threads with one queue.
///
/// `parallel_for` may be called from any thread, also from inside a task of the same pool: the caller takes part in its
/// own loop, so a pool of zero threads runs everything in the caller and nested loops cannot deadlock. The first
/// exception of a loop stops the handing out of further indices and is rethrown to its caller once every index that had
/// begun has ended.
class ThreadPool {
 public:
  /// `num_threads` besides the caller's own; throws invalid_argument when negative.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();  // finishes what was submitted
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return int(threads_.size()); }

  /// Calls task(i) once for every i in [0, n), in any order and in parallel; returns when all are done.
  void parallel_for(int64_t n, const std::function<void(int64_t)>& task);

  /// Runs `task` some time; the future holds its result or its exception. A pool of zero threads runs it at once.
  template <class F>
  auto submit(F task) -> std::future<decltype(task())> {
    auto packaged = std::make_shared<std::packaged_task<decltype(task())()>>(std::move(task));
    auto future = packaged->get_future();
    if (threads_.empty()) {
      (*packaged)();
    } else {
      enqueue([packaged] { (*packaged)(); }, 1);
    }
    return future;
  }

 private:
  void enqueue(std::function<void()> task, int64_t copies);
  void work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace boreas

#include "io/thread_pool.h"

#include <algorithm>
#include <exception>

#include "kernels/core/error.h"

namespace boreas {

ThreadPool::ThreadPool(int num_threads) {
  BOREAS_CHECK(num_threads >= 0, invalid_argument, "a thread pool cannot have {} threads; give 0 or more", num_threads);
  threads_.reserve(size_t(num_threads));
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::enqueue(std::function<void()> task, int64_t copies) {
  {
    std::lock_guard lock(mutex_);
    queue_.insert(queue_.end(), size_t(copies), std::move(task));
  }
  if (copies == 1) {
    wake_.notify_one();
  } else {
    wake_.notify_all();
  }
}

void ThreadPool::work() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

namespace {

// One parallel_for. Helpers hold it by shared_ptr: one that starts late finds nothing left and does not touch `task`,
// which belongs to a caller that may have returned.
struct Loop {
  const std::function<void(int64_t)>* task;
  int64_t end;
  int64_t next = 0;
  int64_t active = 0;
  std::exception_ptr error;
  std::mutex mutex;
  std::condition_variable idle;

  void drain() {
    std::unique_lock lock(mutex);
    while (next < end) {
      const int64_t i = next++;
      ++active;
      lock.unlock();
      std::exception_ptr thrown;
      try {
        (*task)(i);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      --active;
      if (thrown) {
        if (!error) error = thrown;
        next = end;
      }
    }
    if (active == 0) idle.notify_all();
  }
};

}  // namespace

void ThreadPool::parallel_for(int64_t n, const std::function<void(int64_t)>& task) {
  const int64_t num_helpers = std::min<int64_t>(num_threads(), n - 1);
  if (num_helpers <= 0) {
    for (int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  const auto loop = std::make_shared<Loop>();
  loop->task = &task;
  loop->end = n;
  enqueue([loop] { loop->drain(); }, num_helpers);
  loop->drain();
  std::unique_lock lock(loop->mutex);
  loop->idle.wait(lock, [&] { return loop->active == 0; });
  if (loop->error) std::rethrow_exception(loop->error);
}

}  // namespace boreas

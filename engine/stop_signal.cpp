#include "engine/stop_signal.h"

#include <csignal>

namespace boreas {

namespace {

volatile std::sig_atomic_t received = 0;
struct sigaction previous_interrupt, previous_terminate;

void restore() {
  sigaction(SIGINT, &previous_interrupt, nullptr);
  sigaction(SIGTERM, &previous_terminate, nullptr);
}

void on_signal(int number) {
  received = number;
  restore();  // sigaction is async-signal-safe
}

}  // namespace

StopSignal::StopSignal() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_interrupt);
  sigaction(SIGTERM, &action, &previous_terminate);
}

StopSignal::~StopSignal() { restore(); }

bool StopSignal::requested() const { return received != 0; }
int StopSignal::number() const { return received; }

}  // namespace boreas

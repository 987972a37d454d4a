// The ranks of a program that boreas is a part of.
#pragma once

#include <functional>

#include "comm/communicator.h"

namespace boreas {

/// The ranks of a host program, which starts and ends MPI itself: `comm` points to its MPI_Comm, or is its Fortran
/// handle. It is duplicated, and what fails is an error of the call, never the end of the host. Collective. Throws
/// invalid_argument: no communicator, or MPI is not running;  unsupported: this build has no MPI.
std::unique_ptr<Communicator> make_host_communicator(const void* comm);
std::unique_ptr<Communicator> make_host_communicator(int fortran_comm);

/// Runs a task that calls no collective on every rank; if it throws on any, this throws on all of them: its own error
/// where it failed, comm with the message of the first rank that failed elsewhere.
void run_together(Communicator& ranks, const std::function<void()>& task);

}  // namespace boreas

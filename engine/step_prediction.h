// How long an update will take on GPUs, predicted from what single kernels and links were measured to do.
#pragma once

#include "engine/training_step.h"

namespace boreas {

/// Seconds of one op on an H200 in bf16: its operations or bytes over the rate that the microbenchmarks in
/// bench/results show for that op, plus the same for each launch. Matrix products and windowed attention: FLOP/s at the
/// op's arithmetic intensity, interpolated; graph attention: bytes/s, by part of the model (the innermost of `owners`
/// that is one); all else: bytes/s. A prediction, within a few percent for shapes like those, no more.
double predicted_op_seconds(const std::string& op, const std::vector<std::string>& owners, const TraceCost& cost);

/// One update on one rank: the sum over its ops, without exchanges. The step must be made for a device of kind CUDA.
Trace predicted_update(TrainingStep& step, int64_t rollout, int64_t num_variables, int64_t num_members);

/// Seconds of one collective call of NCCL between H200 on NVLink in which a rank sends so many bytes: a floor of 40 us,
/// and 212 GB/s for 64 MiB to 271 GB/s for 1 GiB.
double predicted_exchange_seconds(double bytes);

}  // namespace boreas

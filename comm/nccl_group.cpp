#include "comm/nccl_group.h"

#include <cstdlib>
#include <cstring>

#ifdef BOREAS_WITH_NCCL
#include <cuda_runtime_api.h>
#include <nccl.h>
#endif

namespace boreas {

#ifdef BOREAS_WITH_NCCL

namespace {

ncclComm_t native_of(void* native) { return static_cast<ncclComm_t>(native); }

void check_nccl(ncclResult_t status, const char* what, void* native = nullptr) {
  BOREAS_CHECK(status == ncclSuccess, comm, "{} failed: {}. {}", what, ncclGetErrorString(status),
               ncclGetLastError(native_of(native)));
}

}  // namespace

std::string why_no_nccl() { return {}; }

std::string NcclGroup::make_id() {
  setenv("NCCL_NVLS_ENABLE", "0", 0);  // multicast serves collectives, which are not used
  ncclUniqueId id;
  check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
  return std::string(id.internal, sizeof id.internal);
}

NcclGroup::NcclGroup(const std::string& id, int rank, int size, Device device) {
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  ncclUniqueId unique;
  BOREAS_CHECK(id.size() == sizeof unique.internal, internal, "an id of NCCL with {} bytes", id.size());
  std::memcpy(unique.internal, id.data(), id.size());
  BOREAS_CHECK(cudaSetDevice(device.index) == cudaSuccess, device, "{} cannot be used", to_string(device));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 1;
  ncclComm_t comm = nullptr;
  check_nccl(ncclCommInitRankConfig(&comm, size, unique, rank, &config), "ncclCommInitRank");
  native_ = comm;
}

NcclGroup::~NcclGroup() {
  if (native_) ncclCommDestroy(native_of(native_));
}

void NcclGroup::transfer(const Stream& on, std::span<const Communicator::Rows> send,
                         std::span<const Communicator::Rows> receive) {
  const auto stream = static_cast<cudaStream_t>(on.native());
  const ncclComm_t comm = native_of(native_);
  check_nccl(ncclGroupStart(), "ncclGroupStart", native_);
  for (const auto& [rank, rows] : send)
    if (rows.bytes() > 0)
      check_nccl(ncclSend(rows.data(), size_t(rows.bytes()), ncclUint8, rank, comm, stream), "ncclSend", native_);
  for (const auto& [rank, rows] : receive)
    if (rows.bytes() > 0)
      check_nccl(ncclRecv(rows.data(), size_t(rows.bytes()), ncclUint8, rank, comm, stream), "ncclRecv", native_);
  check_nccl(ncclGroupEnd(), "ncclGroupEnd", native_);
}

std::string NcclGroup::failure() const {
  ncclResult_t status = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(native_of(native_), &status);
  if (asked != ncclSuccess) status = asked;
  if (status == ncclSuccess || status == ncclInProgress) return {};
  return fmt::format("NCCL: {}. {}", ncclGetErrorString(status), ncclGetLastError(native_of(native_)));
}

#else

std::string why_no_nccl() {
  return "this build has no NCCL; install libnccl-dev and libopenmpi-dev and configure with -DBOREAS_CUDA=ON";
}

namespace {
[[noreturn]] void fail_without_nccl() { BOREAS_FAIL(unsupported, "{}", why_no_nccl()); }
}  // namespace

std::string NcclGroup::make_id() { fail_without_nccl(); }
NcclGroup::NcclGroup(const std::string&, int, int, Device) { fail_without_nccl(); }
NcclGroup::~NcclGroup() = default;
void NcclGroup::transfer(const Stream&, std::span<const Communicator::Rows>, std::span<const Communicator::Rows>) {}
std::string NcclGroup::failure() const { return {}; }

#endif

bool ranks_share_gpus() { return std::getenv("BOREAS_SHARE_GPU") != nullptr; }

void let_ranks_share_gpus(int rank) {
  setenv("NCCL_HOSTID", fmt::format("boreas-rank-{}", rank).c_str(), 1);
  for (const auto& [name, value] : {std::pair{"NCCL_SOCKET_IFNAME", "lo"}, std::pair{"NCCL_NET", "Socket"}})
    setenv(name, value, 1);
  for (const char* name : {"NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"}) setenv(name, "1", 1);
}

}  // namespace boreas

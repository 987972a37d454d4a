#include "comm/member_exchange.h"

#include "kernels/elementwise/elementwise.h"

namespace boreas {

MemberExchange::MemberExchange(Communicator& ranks, int64_t num_items, int64_t num_members, int64_t num_cells)
    : ranks_(ranks),
      num_items_(num_items),
      members_(Partition::balanced(num_members, ranks.size())),
      cells_(Partition::balanced(num_cells, ranks.size())) {}

void MemberExchange::move(Context& ctx, const Tensor& own, const Tensor& whole, bool to_cells) const {
  BOREAS_CHECK((own_rows() == 0 || own.rows() == own_rows()) && (whole_rows() == 0 || whole.rows() == whole_rows()),
               shape, "member exchange: {} and {} are not {} rows of own members and {} of own cells", to_string(own),
               to_string(whole), own_rows(), whole_rows());
  const int64_t own_cells = cells().size(), own_members = members().size();
  // Rows of one member of one item: those of own members that a peer has the cells of, those of own cells likewise.
  const auto in_own = [&](int64_t item, int64_t member, int peer) {
    const int64_t first = (item * own_members + member - members().begin) * cells_.size();
    return own.slice({first + cells_[peer].begin, first + cells_[peer].end});
  };
  const auto in_whole = [&](int64_t item, int64_t member) {
    const int64_t first = (item * members_.size() + member) * own_cells;
    return whole.slice({first, first + own_cells});
  };
  std::vector<Communicator::Rows> of_members, of_cells;
  for (int peer = 0; peer < ranks_.size(); ++peer)
    for (int64_t item = 0; item < num_items_; ++item) {
      if (peer == ranks_.rank()) {
        for (int64_t member = members().begin; member < members().end && own_cells > 0; ++member) {
          const Tensor from = in_own(item, member, peer), to = in_whole(item, member);
          run(ctx, Copy{.x = to_cells ? from : to, .y = to_cells ? to : from});
        }
        continue;
      }
      for (int64_t member = members().begin; member < members().end && cells_[peer].size() > 0; ++member)
        of_members.push_back({peer, in_own(item, member, peer)});
      for (int64_t member = members_[peer].begin; member < members_[peer].end && own_cells > 0; ++member)
        of_cells.push_back({peer, in_whole(item, member)});
    }
  ranks_.exchange(ctx, to_cells ? of_members : of_cells, to_cells ? of_cells : of_members);
}

}  // namespace boreas

#include "comm/communicator.h"

#include "comm/cell_exchange.h"
#include "comm/member_exchange.h"
#include "comm/row_exchange.h"
#include "comm/traffic.h"
#include "tests/support/fixtures.h"
#include "tests/support/ranks.h"
#include "tests/support/tolerances.h"

namespace boreas {
namespace {

using test::Workspace;
using test::world;

/// What rank r holds in test number `seed`: the same function on all ranks, so that each can work out the others'.
Tensor values_of(Workspace& w, int rank, DType dtype, Shape shape) {
  Workspace source(uint64_t(100 + rank));
  return w.copy_of(source.random(dtype, shape));
}

TEST(CommunicatorRanks, AllReduceSumsInRankOrder) {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const int64_t size : {1, 7, 1000, 40000}) {
      Workspace w;
      const Tensor x = values_of(w, world().rank(), dtype, {size});
      const Tensor expected = values_of(w, 0, dtype, {size});
      for (int rank = 1; rank < world().size(); ++rank) {
        const Tensor term = values_of(w, rank, dtype, {size});
        dispatch_dtype(dtype, [&]<class T>() {
          if constexpr (std::is_floating_point_v<T>)
            for (int64_t i = 0; i < size; ++i) expected.as<T>()[i] += term.as<T>()[i];
        });
      }
      world().all_reduce(w.ctx, x);
      EXPECT_TRUE(test::identical(x, expected)) << size;
    }
}

TEST(CommunicatorRanks, BroadcastGatherAndScatter) {
  const int ranks = world().size(), me = world().rank();
  const Partition parts = Partition::balanced(2 * ranks + 1, ranks);
  for (int root = 0; root < ranks; ++root) {
    Workspace w;
    const Tensor x = values_of(w, me, DType::f64, {5, 3});
    world().broadcast(w.ctx, x, root);
    EXPECT_TRUE(test::identical(x, values_of(w, root, DType::f64, {5, 3})));
  }
  Workspace w;
  const Tensor whole = values_of(w, 77, DType::f64, {parts.size(), 4}),
               gathered = w.filled(DType::f64, whole.shape(), 0);
  std::copy_n(whole.row<double>(parts[me].begin), parts[me].size() * 4, gathered.row<double>(parts[me].begin));
  world().all_gather_rows(w.ctx, parts, gathered);
  EXPECT_TRUE(test::identical(gathered, whole));

  const Tensor mine = values_of(w, me, DType::f64, {parts.size(), 4});
  world().reduce_scatter_rows(w.ctx, parts, mine);
  for (int64_t row = parts[me].begin; row < parts[me].end; ++row)
    for (int64_t c = 0; c < 4; ++c) {
      double sum = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const double term = values_of(w, rank, DType::f64, {parts.size(), 4}).row<double>(row)[c];
        sum = rank == 0 ? term : sum + term;
      }
      EXPECT_EQ(mine.row<double>(row)[c], sum);
    }
}

TEST(CommunicatorRanks, HostListsAndText) {
  const int ranks = world().size(), me = world().rank();
  std::vector<std::vector<int64_t>> lists;
  for (int peer = 0; peer < ranks; ++peer) lists.emplace_back(size_t(me + peer), 10 * me + peer);
  const auto received = world().all_to_all(lists);
  ASSERT_EQ(received.size(), size_t(ranks));
  for (int peer = 0; peer < ranks; ++peer)
    EXPECT_EQ(received[size_t(peer)], std::vector<int64_t>(size_t(me + peer), 10 * peer + me));
  const auto texts = world().all_gather_text(std::string(size_t(me), 'x'));
  for (int peer = 0; peer < ranks; ++peer) EXPECT_EQ(texts[size_t(peer)], std::string(size_t(peer), 'x'));
}

TEST(CommunicatorRanks, HostValues) {
  const int ranks = world().size(), me = world().rank();
  std::vector<double> values = {0.1 * me, 1.0};
  double expected = 0;
  for (int rank = 1; rank < ranks; ++rank) expected += 0.1 * rank;
  world().sum_values(values);
  EXPECT_EQ(values, (std::vector<double>{expected, double(ranks)}));
  EXPECT_EQ(world().largest(me % 3), std::min(2, ranks - 1));
  EXPECT_EQ(world().any(me == ranks - 1), true);
  EXPECT_EQ(world().any(false), false);
  EXPECT_EQ(world().text_of(ranks - 1, std::string(size_t(me), 'x')), std::string(size_t(ranks - 1), 'x'));
}

TEST(CommunicatorRanks, DisagreementIsNamed) {
  check_agreement(world(), "configuration", "a: 1\nb: 2\n");
  if (world().size() == 1) return;
  const bool odd = world().rank() == world().size() - 1;
  BOREAS_EXPECT_ERROR(check_agreement(world(), "configuration", odd ? "a: 1\nb: 3\n" : "a: 1\nb: 2\n"), config,
                      "\"b: 3\" there, \"b: 2\" here");
  BOREAS_EXPECT_ERROR(check_agreement(world(), "version", odd ? "0.1.1" : "0.1.0"), config,
                      "\"0.1.1\" there, \"0.1.0\" here");
}

TEST(CommunicatorRanks, GridSplitsTheWorld) {
  for (int model_ranks = 1; model_ranks <= world().size(); ++model_ranks) {
    if (world().size() % model_ranks) {
      BOREAS_EXPECT_ERROR(ProcessGrid::make(world().split(0), model_ranks), config, "does not divide");
      continue;
    }
    const ProcessGrid grid = ProcessGrid::make(world().split(0), model_ranks);
    EXPECT_EQ(grid.model->size(), model_ranks);
    EXPECT_EQ(grid.ensemble->size(), 1);
    EXPECT_EQ(grid.replicas->size(), world().size() / model_ranks);
    EXPECT_EQ(grid.model->rank() + model_ranks * grid.replicas->rank(), world().rank());
  }
}

TEST(CommunicatorRanks, GridHasAnAxisForMembers) {
  const int size = world().size();
  for (int ensemble_ranks = 1; ensemble_ranks <= size; ++ensemble_ranks) {
    if (size % ensemble_ranks) {
      BOREAS_EXPECT_ERROR(ProcessGrid::make(world().split(0), 0, ensemble_ranks), config, "parallel.ensemble_ranks is");
      continue;
    }
    const int most = size / ensemble_ranks;
    EXPECT_EQ(ProcessGrid::make(world().split(0), 0, ensemble_ranks).model->size(), most);
    if (ensemble_ranks > 1) {
      BOREAS_EXPECT_ERROR(ProcessGrid::make(world().split(0), most + 1, ensemble_ranks), config,
                          "after parallel.ensemble_ranks=");
    }
    for (int model_ranks = 1; model_ranks <= most; ++model_ranks) {
      if (most % model_ranks) continue;
      const ProcessGrid grid = ProcessGrid::make(world().split(0), model_ranks, ensemble_ranks);
      EXPECT_EQ(grid.model->size(), model_ranks);
      EXPECT_EQ(grid.ensemble->size(), ensemble_ranks);
      EXPECT_EQ(grid.num_data_groups(), most / model_ranks);
      EXPECT_EQ(grid.model->rank() + model_ranks * (grid.ensemble->rank() + ensemble_ranks * grid.data_group()),
                world().rank());
      // Who is in a group: all that differ in its axis only.
      const auto ranks_of = [](Communicator& group) { return group.all_gather_text(std::to_string(world().rank())); };
      const int first = world().rank() - grid.ensemble->rank() * model_ranks;
      std::vector<std::string> expected;
      for (int i = 0; i < ensemble_ranks; ++i) expected.push_back(std::to_string(first + i * model_ranks));
      EXPECT_EQ(ranks_of(*grid.ensemble), expected);
      expected.clear();
      for (int rank = grid.model->rank(); rank < size; rank += model_ranks) expected.push_back(std::to_string(rank));
      EXPECT_EQ(ranks_of(*grid.replicas), expected);
    }
  }
}

TEST(MemberExchangeRanks, BringsAllMembersOfSomeCellsAndTakesThemBack) {
  const int ranks = world().size(), me = world().rank();
  for (const int64_t members : {int64_t{1}, int64_t(ranks), int64_t(2 * ranks + 1)})
    for (const int64_t cells : {int64_t{2}, int64_t(3 * ranks + 2)})
      for (const int64_t items : {1, 2}) {
        const MemberExchange exchange(world(), items, members, cells);
        const Partition of_members = Partition::balanced(members, ranks), of_cells = Partition::balanced(cells, ranks);
        EXPECT_EQ(exchange.members(), of_members[me]);
        EXPECT_EQ(exchange.cells(), of_cells[me]);
        Workspace w;
        const Tensor all = values_of(w, 3, DType::f64, {items * members * cells, 3});
        const Tensor own = w.output(DType::f64, {exchange.own_rows(), 3}),
                     whole = w.output(DType::f64, {exchange.whole_rows(), 3}),
                     back = w.output(DType::f64, {exchange.own_rows(), 3}),
                     expected = w.output(DType::f64, {exchange.whole_rows(), 3});
        const auto fill = [&](const Tensor& part, Range part_members, Range part_cells) {
          int64_t row = 0;
          for (int64_t item = 0; item < items; ++item)
            for (int64_t member = part_members.begin; member < part_members.end; ++member)
              for (int64_t cell = part_cells.begin; cell < part_cells.end; ++cell)
                std::copy_n(all.row<double>((item * members + member) * cells + cell), 3, part.row<double>(row++));
        };
        fill(own, exchange.members(), {0, cells});
        fill(expected, {0, members}, exchange.cells());
        exchange.to_cells(w.ctx, own, whole);
        EXPECT_TRUE(whole.size() == 0 || test::identical(whole, expected));
        exchange.to_members(w.ctx, whole, back);
        EXPECT_TRUE(own.size() == 0 || test::identical(back, own));
      }
}

/// Rows that rank r needs: every third of the whole, from r on, and those next to its own.
std::vector<int64_t> needed_rows(int rank, const Partition& owners) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < owners.size(); ++row)
    if ((row + rank) % 3 == 0 || row + 1 == owners[rank].begin || row == owners[rank].end) rows.push_back(row);
  return rows;
}

TEST(RowExchangeRanks, BringsRowsAndSumsGradients) {
  const int ranks = world().size(), me = world().rank();
  for (const int64_t size : {int64_t(ranks), int64_t(3 * ranks + 2), int64_t(50)})
    for (const bool none_needed : {false, true})
      for (const ExchangeKind kind : {ExchangeKind::halo, ExchangeKind::allgather})
        for (const bool strided : {false, true}) {
          const Partition owners = Partition::balanced(size, ranks);
          std::vector<std::vector<int64_t>> ids;  // of all ranks
          for (int rank = 0; rank < ranks; ++rank)
            ids.push_back(none_needed && rank == 0 ? std::vector<int64_t>() : needed_rows(rank, owners));
          const RowExchange exchange = RowExchange::make(world(), owners, ids[size_t(me)], kind, Device::cpu());
          EXPECT_EQ(exchange.own().size(), owners[me].size());
          if (kind == ExchangeKind::halo && none_needed && me == 0) {
            EXPECT_EQ(exchange.num_received(), 0);
          }
          Workspace w;
          const int64_t rows = exchange.num_rows();
          const Tensor whole = values_of(w, 55, DType::f64, {size, 4});
          const auto room = [&] {
            return strided ? w.output_strided(DType::f64, rows, 4) : w.output(DType::f64, {rows, 4});
          };
          const Tensor x = room();
          for (int64_t i = exchange.own().begin; i < exchange.own().end; ++i)
            std::copy_n(whole.row<double>(exchange.ids()[size_t(i)]), 4, x.row<double>(i));
          exchange.forward(w.ctx, x);
          for (int64_t i = 0; i < rows; ++i)
            for (int64_t c = 0; c < 4; ++c)
              EXPECT_EQ(x.row<double>(i)[c], whole.row<double>(exchange.ids()[size_t(i)])[c]);

          // <forward(x), d> = <x, backward(d)>, summed over the ranks.
          const Tensor d = room();
          Workspace random(uint64_t(7 + me));
          const Tensor d_values = random.random(DType::f64, {rows, 4});
          double left = 0, right = 0;
          for (int64_t i = 0; i < rows; ++i)
            for (int64_t c = 0; c < 4; ++c) {
              d.row<double>(i)[c] = d_values.row<double>(i)[c];
              left += x.row<double>(i)[c] * d_values.row<double>(i)[c];
            }
          exchange.backward(w.ctx, d);
          for (int64_t i = exchange.own().begin; i < exchange.own().end; ++i)
            for (int64_t c = 0; c < 4; ++c) right += x.row<double>(i)[c] * d.row<double>(i)[c];
          const Tensor sums = w.of(DType::f64, {2}, {left, right});
          world().all_reduce(w.ctx, sums);
          EXPECT_NEAR(sums.as<double>()[0], sums.as<double>()[1], 1e-9);
        }
}

TEST(RowExchangeRanks, SendsOnlyWhatIsNeeded) {
  const int ranks = world().size(), me = world().rank();
  const Partition owners = Partition::balanced(10 * ranks, ranks);
  std::vector<int64_t> needed;  // the last row of the rank below
  if (me > 0) needed.push_back(owners[me].begin - 1);
  const RowExchange exchange = RowExchange::make(world(), owners, needed, ExchangeKind::halo, Device::cpu());
  EXPECT_EQ(exchange.num_received(), me > 0 ? 1 : 0);
  EXPECT_EQ(exchange.num_sent(), me + 1 < ranks ? 1 : 0);
  Workspace w;
  const int64_t before = world().bytes_sent();
  const Tensor rows = w.random(DType::f32, {exchange.num_rows(), 8});
  Traffic& traffic = Traffic::of(w.ctx);
  exchange.forward(w.ctx, rows);
  EXPECT_TRUE(traffic.entries().empty());
  traffic.set_counting(true);
  {
    const OwnerScope owner(w.ctx, "encoder");
    exchange.forward(w.ctx, rows);
  }
  traffic.set_counting(false);
  exchange.forward(w.ctx, rows);
  EXPECT_EQ(world().bytes_sent() - before, 3 * exchange.num_sent() * 8 * 4);
  if (ranks == 1) return;
  const auto& entries = traffic.entries();
  ASSERT_EQ(entries.size(), 1u);
  const auto& [owner, entry] = *entries.begin();
  EXPECT_EQ(owner, "encoder");
  EXPECT_EQ(entry.num_exchanges, 1);
  EXPECT_EQ(entry.bytes_sent, exchange.num_sent() * 8 * 4);
  EXPECT_GT(entry.seconds_waited, 0);
}

TEST(CellExchangeRanks, MovesFieldsBothWaysWhateverTheHostsCells) {
  const int ranks = world().size(), me = world().rank();
  constexpr int64_t kCells = 53;
  const Range own = Partition::balanced(kCells, ranks)[me];
  std::vector<int64_t> cells;  // in no order, on some rank or other
  for (int64_t i = 0; i < kCells; ++i)
    if (const int64_t cell = 17 * i % kCells; cell * cell % 11 % ranks == me) cells.push_back(cell);
  const CellExchange exchange(world(), own, kCells, cells);
  const auto value = [](int64_t field, int64_t cell) { return float(1000 * field + cell); };
  std::vector<std::vector<float>> host(3), model(3, std::vector<float>(size_t(own.size()))), back(3);
  std::vector<const float*> from;
  std::vector<float*> to, home;
  for (size_t f = 0; f < 3; ++f) {
    for (const int64_t cell : cells) host[f].push_back(value(int64_t(f), cell));
    back[f].resize(cells.size());
    from.push_back(host[f].data()), to.push_back(model[f].data()), home.push_back(back[f].data());
  }
  exchange.to_model(from, to);
  for (size_t f = 0; f < 3; ++f)
    for (int64_t c = 0; c < own.size(); ++c) EXPECT_EQ(model[f][size_t(c)], value(int64_t(f), own.begin + c));
  exchange.to_host(std::vector<const float*>(to.begin(), to.end()), home);
  EXPECT_EQ(back, host);

  // What is wrong on one rank is an error on all.
  if (me == ranks - 1) cells.push_back(kCells);
  EXPECT_THROW(CellExchange(world(), own, kCells, cells), Error);
  if (me == ranks - 1) cells.back() = cells.front();
  EXPECT_THROW(CellExchange(world(), own, kCells, cells), Error);
}

}  // namespace
}  // namespace boreas

BOREAS_RANKS_MAIN

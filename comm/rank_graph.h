// The part of a graph that one rank computes.
#pragma once

#include "comm/row_exchange.h"
#include "kernels/graph/graph.h"

namespace boreas {

/// A rank owns a contiguous range of destinations with all edges that end there (edge sharding). The sources of its
/// graph are the rows of `sources`: its own and those that its edges need, so attention on it needs nothing else.
struct RankGraph {
  Graph graph;          ///< on the host; destinations and edges renumbered from zero
  RowExchange sources;  ///< graph.num_src() == sources.num_rows()
  Range dst, edges;     ///< in the whole graph
};

/// From the edges that end in this rank's destinations: `dst_ptr` [own destinations + 1] ascends from 0, `src_of` are
/// sources of the whole graph, the first is edge `first_edge` there. Collective; `device`: where rows are exchanged.
RankGraph make_rank_graph(Communicator& ranks, const Partition& src_owners, const Partition& dst_owners,
                          std::span<const int64_t> dst_ptr, std::span<const int32_t> src_of, int64_t first_edge,
                          ExchangeKind kind, Device device);

/// The same from the whole graph, on the host.
RankGraph make_rank_graph(Communicator& ranks, const Graph& whole, const Partition& src_owners,
                          const Partition& dst_owners, ExchangeKind kind, Device device);

/// The same part with its nodes, which are destinations as well as sources, in another order: first those whose edges
/// all come from own nodes, so that they need nothing from other ranks, then the others; otherwise in their order.
/// Edges go with their destinations. Only own rows of `sources` move, so that other ranks need not know. On the host;
/// of halos.
struct InteriorFirst {
  RankGraph part;
  int64_t num_interior = 0;
  std::vector<int32_t> nodes, edges;  ///< [own nodes], [own edges]: where each was
};
InteriorFirst interior_first(RankGraph part);

/// The whole graph as the part of the only rank.
RankGraph make_rank_graph(Graph whole);

}  // namespace boreas

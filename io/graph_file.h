// Graphs in HDF5: a file of their own, or a group of a checkpoint.
#pragma once

#include <string>

#include "io/hdf5_file.h"
#include "kernels/graph/graph_data.h"

namespace boreas {

/// Layout of the group:
///
///   attribute hash                                  content hash of the graph (GraphData::hash)
///   nodes/<name>/latitudes, longitudes              f64 [N], radians; attribute position: place in the list
///   nodes/<name>/attributes/<attribute>             f64 [N]
///   edges/<src>-to-<dst>/src_of, dst_of             i32 [M], sorted by destination; attributes position, src, dst
///   edges/<src>-to-<dst>/attributes                 f64 [M, W]; edges/.../attribute_names (text, one a line),
///                                                   attribute_widths i32
///
/// Errors: those of Hdf5File; corrupt_data if the content does not fit its hash or contradicts itself.
void save_graph(Hdf5File& file, const std::string& group, const GraphData& graph);
GraphData load_graph(const Hdf5File& file, const std::string& group);

/// What rank `index` of `count` needs: its nodes and the edges that end in them. Nothing else is kept, and for bands
/// nothing else is read, so the hash is that which the file states; what was read is checked for itself. Patches are
/// found from the coordinates of all nodes. The result is that of part_of, of patches that of in_patches.
struct GraphShare {
  int64_t index = 0, count = 1;
  GraphPartition partition = GraphPartition::bands;
};
GraphData load_graph(const Hdf5File& file, const std::string& group, const GraphShare& share);

/// A file that holds one graph in its root group; written aside and renamed.
void save_graph(const std::string& path, const GraphData& graph);
GraphData load_graph(const std::string& path);

/// The hash that the group states, without reading the graph; "" if there is no graph.
std::string stored_graph_hash(const Hdf5File& file, const std::string& group);

}  // namespace boreas

// Weights by the names of the reference implementation: HDF5 and safetensors files to a ParameterStore, and back.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace boreas {

class ParameterStore;

/// What an import did with each array of the file.
struct ImportReport {
  int64_t num_arrays = 0;             ///< in the file
  int64_t num_imported = 0;           ///< parameters and constants of the model
  std::vector<std::string> aliases;   ///< second names of imported arrays, found equal to the first
  std::vector<std::string> not_used;  ///< arrays that belong to the reference's data handling, with the reason
};

/// Reads every trainable array and constant of a materialised store from an HDF5 file (arrays `weights/<name>`) or a
/// safetensors file; which of the two is seen from its first bytes. Names may start with `model.model.` (training
/// checkpoint) or `model.` (inference checkpoint). Types f64, f32, bf16, f16 are converted to the store's.
///
/// Arrays that are no parameter: `layer_norm_attention_dest` is a second name and must equal the first;
/// `trainable_layout_version` must be 1 (rows of edge arrays sorted by destination); constants such as node coordinates
/// must agree with the graph to 1e-4, and are then taken from the file; `boundings`, `pre_processors` and
/// `post_processors` are derived from configuration and statistics here, and are listed in the report.
///
/// Nothing is written to the store unless everything fits. Throws
///   config        arrays that are missing, unexpected, or of another shape: all of them in one message
///   corrupt_data  a file that is damaged: sizes are validated against the file before memory is taken; values not
///   finite io            a file that cannot be read
ImportReport import_weights(const std::string& path, ParameterStore& store);

/// Writes every array of the store, second names and layout versions included, so that the file is a complete state
/// dict of the reference model (without prefix). The ending decides: .h5 or .hdf5, or .safetensors. Written aside and
/// renamed. Importing the file gives the same bits.
void export_weights(const std::string& path, const ParameterStore& store);

}  // namespace boreas

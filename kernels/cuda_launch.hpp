// Launchers of the kernels, each in the source that holds its kernels: asynchronous on `stream`, errors of the launch thrown.
#pragma once

#include <cuda_runtime_api.h>

#include "launches.hpp"

namespace moekv::kernels {

void launch_append(const AppendLaunch& work, cudaStream_t stream);
void launch_widen(const WidenLaunch& work, cudaStream_t stream);
void launch_seal(const SealLaunch& work, cudaStream_t stream);
void launch_score(const ScoreLaunch& work, cudaStream_t stream);
void launch_select(const SelectLaunch& work, cudaStream_t stream);
void launch_merge(const MergeLaunch& work, cudaStream_t stream);
void launch_mass(const MassLaunch& work, cudaStream_t stream);
void launch_gate(const GateLaunch& work, cudaStream_t stream);
void launch_generate(const GenerateLaunch& work, cudaStream_t stream);
void launch_attend(const AttendLaunch& work, cudaStream_t stream);
void launch_tensor_64(const AttendLaunch& work, cudaStream_t stream);
void launch_tensor_128(const AttendLaunch& work, cudaStream_t stream);
void launch_tensor_latent(const AttendLaunch& work, cudaStream_t stream);
/// Does nothing; its image tells whether the program has code for the device.
cudaError_t find_image();

}  // namespace moekv::kernels

/* A stand-in for the CUDA runtime library: kernels are registered here and launches handed to
 * Python.
 *
 * Launchers are linked with this library in place of libcudart. What needs the emulated device is a
 * call of one of the callbacks; the rest is bookkeeping that has no effect on a device that does
 * everything at once.
 */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

/* From crt/host_runtime.h and crt/device_functions.h, which only nvcc can include. */
#define API __attribute__((visibility("default")))

struct emulator_callbacks {
  int (*launch)(const char* kernel, int module, const unsigned* grid, const unsigned* block,
                void** arguments, size_t shared, void* stream);
  int (*allocate)(void** pointer, size_t size);
  int (*release)(void* pointer);
  int (*copy)(void* to, const void* from, size_t size, int kind);
  int (*fill)(void* to, int value, size_t size);
  int (*attribute)(int* value, int attribute);
  int (*function)(const char* kernel, int module, struct cudaFuncAttributes* attributes);
  int (*symbol)(void** pointer, size_t* size, const char* name, int module);
  int (*describe)(void* pointer, int* is_device);
  int (*load)(const char* ptx, int module);
  int (*defines)(const char* kernel, int module);
};

struct entry {
  const void* host;
  char* name;
  int module;
  int most_shared; /* dynamic, until cudaFuncSetAttribute allows more */
};

struct table {
  struct entry* entries;
  int count;
};

struct configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};

static struct emulator_callbacks device;
static struct table kernels, variables;
static int modules;
static cudaError_t last_error;
static struct configuration configurations[64];
static int depth;

static cudaError_t note(int status) {
  if (status != cudaSuccess) last_error = (cudaError_t)status;
  return (cudaError_t)status;
}

static void add(struct table* table, const void* host, const char* name, int module) {
  table->entries = realloc(table->entries, (table->count + 1) * sizeof *table->entries);
  struct entry entry = {host, strdup(name), module, 48 * 1024};
  table->entries[table->count++] = entry;
}

static struct entry* find(const struct table* table, const void* host) {
  for (int i = table->count - 1; i >= 0; --i)
    if (table->entries[i].host == host) return &table->entries[i];
  return NULL;
}

/* ---- for Python ---- */

API void emulator_connect(const struct emulator_callbacks* callbacks) { device = *callbacks; }
API int emulator_module_count(void) { return modules; }

/* ---- what nvcc's code calls ---- */

static void** handle_of_module(int module) {
  int* handle = malloc(sizeof(void*));
  *handle = module;
  return (void**)handle;
}

API void** __cudaRegisterFatBinary(void* binary) {
  (void)binary;
  return handle_of_module(modules++);
}

API void __cudaRegisterFatBinaryEnd(void** handle) { (void)handle; }

API void __cudaUnregisterFatBinary(void** handle) {
  int module = *(int*)handle;
  for (int i = 0; i < kernels.count; ++i)
    if (kernels.entries[i].module == module) kernels.entries[i].host = NULL;
  for (int i = 0; i < variables.count; ++i)
    if (variables.entries[i].module == module) variables.entries[i].host = NULL;
  free(handle);
}

API char __cudaInitModule(void** handle) {
  (void)handle;
  return 1;
}

API void __cudaRegisterFunction(void** handle, const char* host, char* device_function,
                                const char* name, int thread_limit, void* thread_id, void* block_id,
                                void* block, void* grid, int* warp_size) {
  (void)device_function, (void)thread_limit, (void)thread_id, (void)block_id;
  (void)block, (void)grid, (void)warp_size;
  add(&kernels, host, name, *(int*)handle);
}

API void __cudaRegisterVar(void** handle, char* host, char* device_address, const char* name,
                           int external, size_t size, int constant, int global) {
  (void)device_address, (void)external, (void)size, (void)constant, (void)global;
  add(&variables, host, name, *(int*)handle);
}

API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  if (depth == 64) return 1;
  struct configuration configuration = {grid, block, shared, stream};
  configurations[depth++] = configuration;
  return 0;
}

API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (depth == 0) return note(cudaErrorMissingConfiguration);
  struct configuration* configuration = &configurations[--depth];
  *grid = configuration->grid;
  *block = configuration->block;
  *shared = configuration->shared;
  *(void**)stream = configuration->stream;
  return cudaSuccess;
}

API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = (cudaKernel_t)host;
  return cudaSuccess;
}

API cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments,
                                 size_t shared, cudaStream_t stream) {
  const struct entry* kernel = find(&kernels, host);
  if (kernel == NULL) return note(cudaErrorInvalidDeviceFunction);
  if (shared > (size_t)kernel->most_shared) return note(cudaErrorInvalidValue);
  unsigned grid_size[3] = {grid.x, grid.y, grid.z}, block_size[3] = {block.x, block.y, block.z};
  return note(device.launch(kernel->name, kernel->module, grid_size, block_size, arguments, shared,
                            stream));
}

API cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                                   size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel((const void*)kernel, grid, block, arguments, shared, stream);
}

API cudaError_t __cudaLaunchKernel_ptsz(cudaKernel_t kernel, dim3 grid, dim3 block,
                                        void** arguments, size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel((const void*)kernel, grid, block, arguments, shared, stream);
}

API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host,
                                    void** arguments) {
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    cudaLaunchAttributeID id = config->attrs[i].id;
    if (id == cudaLaunchAttributeClusterDimension || id == cudaLaunchAttributeCooperative)
      return note(cudaErrorNotSupported);
  }
  return cudaLaunchKernel(host, config->gridDim, config->blockDim, arguments,
                          config->dynamicSmemBytes, config->stream);
}

/* ---- libraries loaded at run time, of PTX ---- */

/* ---- stream captures: all there is of them is what they forbid ---- */

static int capturing;
static _Thread_local enum cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

API void emulator_capture(int begins) { capturing = begins; }

API cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode* mode) {
  enum cudaStreamCaptureMode before = capture_mode;
  capture_mode = *mode;
  *mode = before;
  return cudaSuccess;
}

static int is_forbidden(void) { return capturing && capture_mode != cudaStreamCaptureModeRelaxed; }

API cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code,
                                    enum cudaJitOption* options, void** values, unsigned count,
                                    enum cudaLibraryOption* library_options, void** library_values,
                                    unsigned library_count) {
  (void)options, (void)values, (void)library_options, (void)library_values;
  if (code == NULL || count || library_count) return note(cudaErrorInvalidValue);
  if (is_forbidden()) return note(cudaErrorStreamCaptureUnsupported);
  if (memcmp(code,
             "\x7f"
             "ELF",
             4) == 0)
    return note(cudaErrorNoKernelImageForDevice);
  int module = modules++;
  cudaError_t error = note(device.load(code, module));
  if (error == cudaSuccess) *library = (cudaLibrary_t)handle_of_module(module);
  return error;
}

API cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library,
                                     const char* name) {
  int module = *(int*)library;
  cudaError_t error = note(device.defines(name, module));
  if (error != cudaSuccess) return error;
  void* host = malloc(1);
  add(&kernels, host, name, module);
  *kernel = host;
  return cudaSuccess;
}

API cudaError_t cudaLibraryUnload(cudaLibrary_t library) {
  __cudaUnregisterFatBinary((void**)library);
  return cudaSuccess;
}

/* ---- errors ---- */

API cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

API cudaError_t cudaPeekAtLastError(void) { return last_error; }

static const struct {
  cudaError_t error;
  const char *name, *text;
} messages[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorMissingConfiguration, "cudaErrorMissingConfiguration",
     "__global__ function call is not configured"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "named symbol not found"},
    {cudaErrorInvalidPtx, "cudaErrorInvalidPtx", "a PTX JIT compilation failed"},
    {cudaErrorInvalidSymbol, "cudaErrorInvalidSymbol", "invalid device symbol"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};

API const char* cudaGetErrorString(cudaError_t error) {
  for (size_t i = 0; i < sizeof messages / sizeof *messages; ++i)
    if (messages[i].error == error) return messages[i].text;
  return "unrecognized error code";
}

API const char* cudaGetErrorName(cudaError_t error) {
  for (size_t i = 0; i < sizeof messages / sizeof *messages; ++i)
    if (messages[i].error == error) return messages[i].name;
  return "unrecognized error code";
}

/* ---- devices and functions ---- */

API cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = 0;
  return cudaSuccess;
}

API cudaError_t cudaSetDevice(int ordinal) {
  return note(ordinal == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

API cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

API cudaError_t cudaDeviceSynchronize(void) { return last_error; }

API cudaError_t cudaDeviceGetAttribute(int* value, enum cudaDeviceAttr attribute, int ordinal) {
  if (ordinal != 0) return note(cudaErrorInvalidDevice);
  return note(device.attribute(value, attribute));
}

static int attribute(enum cudaDeviceAttr number) {
  int value = 0;
  device.attribute(&value, number);
  return value;
}

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp* properties, int ordinal) {
  if (ordinal != 0) return note(cudaErrorInvalidDevice);
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, "emulated device");
  properties->major = attribute(cudaDevAttrComputeCapabilityMajor);
  properties->minor = attribute(cudaDevAttrComputeCapabilityMinor);
  properties->warpSize = attribute(cudaDevAttrWarpSize);
  properties->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
  properties->maxThreadsPerBlock = attribute(cudaDevAttrMaxThreadsPerBlock);
  properties->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
  properties->sharedMemPerBlock = attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  properties->sharedMemPerBlockOptin = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return cudaSuccess;
}

API cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes* attributes, const void* host) {
  const struct entry* kernel = find(&kernels, host);
  if (kernel == NULL) return note(cudaErrorInvalidDeviceFunction);
  memset(attributes, 0, sizeof *attributes);
  return note(device.function(kernel->name, kernel->module, attributes));
}

API cudaError_t cudaFuncSetAttribute(const void* host, enum cudaFuncAttribute attribute,
                                     int value) {
  struct entry* kernel = find(&kernels, host);
  if (kernel == NULL) return note(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) kernel->most_shared = value;
  return cudaSuccess;
}

API cudaError_t cudaFuncSetCacheConfig(const void* host, enum cudaFuncCache config) {
  (void)config;
  return note(find(&kernels, host) ? cudaSuccess : cudaErrorInvalidDeviceFunction);
}

API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks,
                                                                       const void* host,
                                                                       int threads, size_t shared,
                                                                       unsigned flags) {
  (void)flags;
  struct cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, host);
  if (error != cudaSuccess) return error;
  int most_threads = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
  int most_blocks = attribute(cudaDevAttrMaxBlocksPerMultiprocessor);
  int most_shared = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  if (threads < 1 || threads > attributes.maxThreadsPerBlock) return note(cudaErrorInvalidValue);
  size_t bytes = attributes.sharedSizeBytes + shared;
  *blocks = most_threads / ((threads + 31) / 32 * 32);
  if (*blocks > most_blocks) *blocks = most_blocks;
  if (bytes && most_shared / bytes < (size_t)*blocks) *blocks = (int)(most_shared / bytes);
  return cudaSuccess;
}

API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* host,
                                                              int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, host, threads, shared, 0);
}

/* ---- memory ---- */

API cudaError_t cudaMalloc(void** pointer, size_t size) {
  if (is_forbidden()) return note(cudaErrorStreamCaptureUnsupported);
  return note(device.allocate(pointer, size));
}

API cudaError_t cudaMallocAsync(void** pointer, size_t size, cudaStream_t stream) {
  (void)stream;
  return cudaMalloc(pointer, size);
}

API cudaError_t cudaFree(void* pointer) {
  return note(pointer ? device.release(pointer) : cudaSuccess);
}

API cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  (void)stream;
  return cudaFree(pointer);
}

API cudaError_t cudaMemcpy(void* to, const void* from, size_t size, enum cudaMemcpyKind kind) {
  return note(device.copy(to, from, size, kind));
}

API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, enum cudaMemcpyKind kind,
                                cudaStream_t stream) {
  (void)stream;
  return cudaMemcpy(to, from, size, kind);
}

API cudaError_t cudaMemset(void* to, int value, size_t size) {
  return note(device.fill(to, value, size));
}

API cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
  (void)stream;
  return cudaMemset(to, value, size);
}

API cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
  const struct entry* variable = find(&variables, symbol);
  size_t size;
  if (variable == NULL) return note(cudaErrorInvalidSymbol);
  return note(device.symbol(pointer, &size, variable->name, variable->module));
}

API cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t size, size_t offset,
                                   enum cudaMemcpyKind kind) {
  void* pointer;
  cudaError_t error = cudaGetSymbolAddress(&pointer, symbol);
  return error ? error : cudaMemcpy((char*)pointer + offset, from, size, kind);
}

API cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t size,
                                        size_t offset, enum cudaMemcpyKind kind,
                                        cudaStream_t stream) {
  (void)stream;
  return cudaMemcpyToSymbol(symbol, from, size, offset, kind);
}

API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes* attributes,
                                         const void* pointer) {
  int is_device;
  device.describe((void*)pointer, &is_device);
  memset(attributes, 0, sizeof *attributes);
  attributes->type = is_device ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  attributes->devicePointer = is_device ? (void*)pointer : NULL;
  return cudaSuccess;
}

/* ---- streams and events: everything is done at once ---- */

static cudaError_t handle(void** created) {
  *created = malloc(1);
  return cudaSuccess;
}

API cudaError_t cudaStreamCreate(cudaStream_t* stream) { return handle((void**)stream); }

API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  (void)flags;
  return handle((void**)stream);
}

API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  (void)flags, (void)priority;
  return handle((void**)stream);
}

API cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  free(stream);
  return cudaSuccess;
}

API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  (void)stream;
  return last_error;
}

API cudaError_t cudaStreamQuery(cudaStream_t stream) {
  (void)stream;
  return last_error;
}

API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  (void)stream, (void)event, (void)flags;
  return cudaSuccess;
}

API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus* status) {
  (void)stream;
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

API cudaError_t cudaEventCreate(cudaEvent_t* event) { return handle((void**)event); }

API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  (void)flags;
  return handle((void**)event);
}

API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  (void)event, (void)stream;
  return cudaSuccess;
}

API cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  (void)event;
  return cudaSuccess;
}

API cudaError_t cudaEventQuery(cudaEvent_t event) {
  (void)event;
  return cudaSuccess;
}

API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  (void)start, (void)end;
  *milliseconds = 0;
  return cudaSuccess;
}

API cudaError_t cudaEventDestroy(cudaEvent_t event) {
  free(event);
  return cudaSuccess;
}

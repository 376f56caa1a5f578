// A stand-in for the NVIDIA driver's library, as far as selfware-resourced uses it. Every call reads key=value lines
// from $FAKE_NVML again, so that a test heats, fills, breaks or hangs the "GPU" while the daemon runs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } rates_t;

static long long value(const char *key, long long otherwise) {
  const char *path = getenv("FAKE_NVML");
  FILE *file = path ? fopen(path, "re") : NULL;
  size_t length = strlen(key);
  char line[128];
  if (!file) return otherwise;
  while (fgets(line, sizeof line, file))
    if (!strncmp(line, key, length) && line[length] == '=') otherwise = atoll(line + length + 1);
  fclose(file);
  return otherwise;
}
static int gate(void) {
  while (value("hang", 0)) usleep(20000);
  return (int)value("error", 0);
}
int nvmlInit_v2(void) { return gate(); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return gate(); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : "fake error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)value("count", 1); return gate(); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(size_t)(index + 1); return gate(); }
int nvmlDeviceGetName(void *device, char *name, unsigned size) { (void)device; snprintf(name, size, "Fake GPU"); return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
  (void)device; (void)sensor; *celsius = (unsigned)value("celsius", 45); return gate();
}
/* As a real driver: the first way counts what it keeps for itself as used, the second does not. */
#define RESERVED (1ULL << 30)
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
  (void)device; memory->total = 24ULL << 30; memory->used = ((unsigned long long)value("used_gib", 1) << 30) + RESERVED;
  memory->free = memory->total - memory->used; return gate();
}
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
  (void)device; memory->total = 24ULL << 30; memory->used = (unsigned long long)value("used_gib", 1) << 30;
  memory->reserved = RESERVED; memory->free = memory->total - memory->used - RESERVED; return gate();
}
int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates) {
  (void)device; rates->gpu = 10; rates->memory = 5; return value("no_rates", 0) ? 3 : gate();
}

/* Increase it with every change of a structure, so that an outdated library is not used. */

#include "instructions.h"

EXPORT int upframe_version(void) { return 7; }

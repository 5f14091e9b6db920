/* To be raised with every change of a structure, so that an old library is not taken for this one. */

#include "instructions.h"

EXPORT int upframe_version(void) { return 6; }

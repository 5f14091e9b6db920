/* One row of chroma, and the rows of luma next to it, from R'G'B'; see `chroma.py` for the filters.
 *
 * Included once per instruction set, with ROWS(name) giving each copy its own names.
 */

static inline void ROWS(store_codes)(const struct coding *job, void *plane, size_t at,
                                     const float *values, int count)
{
    if (job->most <= 255) {
        uint8_t *to = (uint8_t *)plane + at;
        for (int x = 0; x < count; x++) {
            float code = rintf(values[x]);
            to[x] = (uint8_t)(int)(code < 0 ? 0 : code > job->most ? job->most : code);
        }
    } else {
        uint16_t *to = (uint16_t *)plane + at;
        for (int x = 0; x < count; x++) {
            float code = rintf(values[x]);
            to[x] = (uint16_t)(int)(code < 0 ? 0 : code > job->most ? job->most : code);
        }
    }
}

static inline void ROWS(mixed)(const float *const rgb[3], const float weights[3], float offset,
                               int width, float *to)
{
    const float *red = rgb[0], *green = rgb[1], *blue = rgb[2];
    for (int x = 0; x < width; x++)
        to[x] = offset + weights[0] * red[x] + weights[1] * green[x] + weights[2] * blue[x];
}

/* R'G'B' of one row of chroma: those of its luma row, or filtered from twelve. */
static inline void ROWS(gather)(const struct coding *job, int y, float *rgb)
{
    for (int channel = 0; channel < 3; channel++) {
        const float *plane = job->pixels + (size_t)channel * job->height * job->width;
        float *to = rgb + (size_t)channel * job->width;
        if (!job->halved_down) {
            memcpy(to, plane + (size_t)y * job->width, job->width * sizeof *to);
            continue;
        }
        memset(to, 0, job->width * sizeof *to);
        for (int tap = 0; tap < 12; tap++) {
            const float *from = plane + (size_t)mirrored(2 * y - 5 + tap, job->height) * job->width;
            float weight = job->taps[tap];
            for (int x = 0; x < job->width; x++)
                to[x] += weight * from[x];
        }
    }
}

/* Split a row, six mirrored values at each end, into its even and its odd samples, three at each. */
static inline void ROWS(part)(const float *row, int half, float *even, float *odd)
{
    for (int x = 0; x < half + 6; x++) {
        even[x] = row[2 * x];
        odd[x] = row[2 * x + 1];
    }
}

/* Halve a row whose chroma lies between two pixels. */
static inline void ROWS(halve_between)(const float *taps, const float *even, const float *odd,
                                       int half, float *to)
{
    for (int x = 0; x < half; x++) {
        float sum = 0;
        for (int tap = 0; tap < 6; tap++)
            sum += taps[2 * tap] * odd[x + tap] + taps[2 * tap + 1] * even[x + 1 + tap];
        to[x] = sum;
    }
}

/* Halve a row whose chroma lies on the first of two pixels: add the smoothed differences. */
static inline void ROWS(halve_first)(float *even, float *odd, int half, float *to)
{
    float *first = even + 3, *differences = odd + 3; /* of odd samples to the cubic between even */
    first[-1] = first[0]; /* that cubic sees the even samples alone, mirrored */
    first[half] = first[half - 1];
    first[half + 1] = first[half - 2];
    for (int x = 0; x < half; x++)
        differences[x] -= (9 * (first[x] + first[x + 1]) - first[x - 1] - first[x + 2]) / 16;
    differences[-2] = differences[-1] = differences[half] = 0;
    for (int x = 0; x < half; x++)
        to[x] = first[x] + (9 * (differences[x - 1] + differences[x]) - differences[x - 2]
                            - differences[x + 1]) / 32;
}

static void ROWS(code)(const struct coding *job, int y, float *work)
{
    int width = job->width, rows = job->halved_down ? 2 : 1, half = width / 2;
    float *rgb = work, *row = work + 3 * (size_t)width, *values = row + width + 16;
    float *even = values + width + 16, *odd = even + half + 8;
    for (int luma = rows * y; luma < rows * (y + 1); luma++) {
        size_t at = (size_t)luma * width, plane = (size_t)job->height * width;
        const float *from[3] = { job->pixels + at, job->pixels + plane + at,
                                 job->pixels + 2 * plane + at };
        ROWS(mixed)(from, job->matrix[0], job->offset[0], width, values);
        ROWS(store_codes)(job, job->planes[0], at, values, width);
    }
    ROWS(gather)(job, y, rgb);
    const float *filtered[3] = { rgb, rgb + width, rgb + 2 * (size_t)width };
    for (int channel = 1; channel < 3; channel++) {
        ROWS(mixed)(filtered, job->matrix[channel], job->offset[channel], width, row + 6);
        for (int x = 0; x < 6; x++) {
            row[5 - x] = row[6 + x];
            row[6 + width + x] = row[5 + width - x];
        }
        if (job->across != ACROSS_WHOLE)
            ROWS(part)(row, half, even, odd);
        if (job->across == ACROSS_BETWEEN)
            ROWS(halve_between)(job->taps, even, odd, half, values);
        else if (job->across == ACROSS_FIRST)
            ROWS(halve_first)(even, odd, half, values);
        int count = job->across == ACROSS_WHOLE ? width : half;
        ROWS(store_codes)(job, job->planes[channel], (size_t)y * count,
                          job->across == ACROSS_WHOLE ? row + 6 : values, count);
    }
}

/* One row of each step of the compact upscaling network that is no convolution.
 *
 * Included once per instruction set and dtype of the convolutions, behind values.h.
 */

/* PReLU: values below zero are multiplied by the slope of their channel. */
static void ROWS(activate)(const struct activation *job, int y)
{
    int channels = job->channels;
    size_t start = (size_t)y * job->width * channels;
    for (int x = 0; x < job->width; x++, start += channels)
        for (int channel = 0; channel < channels; channel += 8) {
            eight value = ROWS(eight_of)(job->values, start + channel);
            eight slope = ROWS(load)(job->slopes + channel);
            word_eight below = (word_eight)(value < 0), bits = (word_eight)value;
            word_eight sloped = (word_eight)(value * slope);
            ROWS(put8)(job->values, start + channel, (eight)((sloped & below) | (bits & ~below)));
        }
}

/* A row of squares by pixel shuffle: each pixel's detail plus the pixel itself. */
static void ROWS(lay)(const struct laying *job, int y)
{
    int width = job->width, scale = job->scale;
    size_t plane = (size_t)job->height * width, row = (size_t)y * width;
    for (int channel = 0; channel < 3; channel++)
        for (int down = 0; down < scale; down++) {
            size_t from = row * 3 * scale * scale + (channel * scale + down) * scale;
            float *to = job->result + channel * plane * scale * scale
                + (row * scale + (size_t)down * width) * scale;
            const float *image = job->image + channel * plane + row;
            for (int x = 0; x < width; x++, from += 3 * scale * scale, to += scale) {
                if (scale == 4) {
                    *(four_unaligned *)to = ROWS(four_of)(job->detail, from) + image[x];
                    continue;
                }
                for (int right = 0; right < scale; right++)
                    to[right] = ROWS(one_of)(job->detail, from + right) + image[x];
            }
        }
}

/* Three neighbours of a column of the picture, mixed by the weights of the pixel's row. */
static inline float ROWS(column)(const struct laying *job, const float *image, int y,
                                 const float *weights)
{
    float sum = weights[1] * image[0];
    sum += y ? weights[0] * image[-job->width] : 0;
    return sum + (y + 1 < job->height ? weights[2] * image[job->width] : 0);
}

/* Divisor of a result: the sum of the weights of neighbours inside the picture. */
static inline float ROWS(share)(const float *weights, int index, int length)
{
    if (index && index + 1 < length)
        return 1;
    return weights[1] + (index ? weights[0] : 0) + (index + 1 < length ? weights[2] : 0);
}

/* The same for downscaled squares: each pixel of the result depends on nine. */
static void ROWS(shrink)(const struct laying *job, int y)
{
    int width = job->width, scale = job->scale, squares = scale * scale;
    size_t plane = (size_t)job->height * width, row = (size_t)y * width;
    for (int channel = 0; channel < 3; channel++)
        for (int down = 0; down < scale; down++) {
            const float *image = job->image + channel * plane + row;
            const float *weights = job->weights[down];
            float *to = job->result + channel * plane * squares
                + (row * scale + (size_t)down * width) * scale;
            float inside = ROWS(share)(weights, y, job->height);
            float left = 0, middle = ROWS(column)(job, image, y, weights);
            for (int x = 0; x < width; x++) {
                float right = x + 1 < width ? ROWS(column)(job, image + x + 1, y, weights) : 0;
                size_t from = (row + x) * 3 * squares + (channel * scale + down) * scale;
                int at_edge = x == 0 || x + 1 == width || inside != 1;
                for (int across = 0; across < scale; across++) {
                    const float *of = job->weights[across];
                    float sum = left * of[0] + middle * of[1] + right * of[2]
                        + ROWS(one_of)(job->detail, from + across);
                    if (at_edge)
                        sum /= inside * ROWS(share)(of, x, width);
                    to[x * scale + across] = sum;
                }
                left = middle;
                middle = right;
            }
        }
}

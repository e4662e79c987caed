/** As in Next.js: the headers of the request that is being handled. */
export function headers(): Promise<Headers>;

// The little that `bun.ts` uses of Bun's foreign functions.

declare module "bun:ffi" {
  export const FFIType: { readonly cstring: number; readonly i32: number; readonly u32: number };
  export function dlopen<Name extends string>(
    library: string,
    symbols: Record<Name, { args: number[]; returns: number }>,
  ): { symbols: Record<Name, (...args: number[]) => number> };
  export function ptr(bytes: Uint8Array): number;
}

export function findForgottenPromises(root: string, extraFiles?: readonly string[]): string[];

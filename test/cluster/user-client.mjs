// A client of whichever user this process is: connects as often as it is told, and sets and gets once it is in. Prints
// one JSON document: how often each code came, the messages, and whether the bytes came back.
import { Blob, DeviceBlobList, HeteroClient, SimDevice, StatusCode } from "../../dist/client/index.js";

const { port, token, tries = 1 } = JSON.parse(process.argv[2] ?? "{}");
const codes = {};
const messages = new Set();
let isSame = false;
for (let count = 0; count < tries; count += 1) {
  const client = new HeteroClient({ host: "127.0.0.1", port, ...(token === undefined ? {} : { token }) });
  let code = "OK";
  try {
    await client.init();
    isSame = await setAndGet(client);
  } catch (error) {
    code = StatusCode[error.code] ?? String(error);
    messages.add(error.message);
  }
  codes[code] = (codes[code] ?? 0) + 1;
  await client.close();
}
process.stdout.write(JSON.stringify({ codes, messages: [...messages], isSame }));

async function setAndGet(client) {
  const bytes = 100_000;
  const device = new SimDevice(0);
  const [source, target] = [device.allocate(bytes), device.allocate(bytes)];
  device.copyIn(source, new Uint8Array(bytes).fill(process.getuid() % 251));
  const listOf = (pointer) => [new DeviceBlobList(0, [new Blob(pointer, BigInt(bytes))])];
  (await client.mSetD2H(["k"], listOf(source), { existence: "replace" })).throwIfFailed?.();
  await client.mGetH2D(["k"], listOf(target));
  return Buffer.from(device.copyOut(target, bytes)).equals(Buffer.from(device.copyOut(source, bytes)));
}

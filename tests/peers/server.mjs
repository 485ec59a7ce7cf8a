// For the peers in JavaScript: `serve` starts the built server on a free port, in a folder of its own that goes with it.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const top = fileURLToPath(new URL('../..', import.meta.url));
const binary = process.env.OPENCODE_API ?? join(top, 'target/debug/opencode-api');
const running = new Set();
process.on('exit', () => running.forEach((stop) => stop()));

/** Starts a program whose output has a line that `ready` matches; gives that match and `stop`. */
export async function start(command, args, env, ready) {
  const folder = mkdtempSync(join(tmpdir(), 'opencode-peer-'));
  const child = spawn(command, args, { env: { PATH: process.env.PATH, HOME: folder, ...env(folder) }, cwd: folder });
  let log = '';
  child.stderr.on('data', (data) => { log = (log + data).slice(-4000); });
  const stop = () => {
    running.delete(stop);
    child.kill();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
  running.add(stop);
  const timer = setTimeout(() => child.kill(), 20_000);
  for await (const line of createInterface({ input: child.stdout })) {
    const match = ready.exec(line);
    if (!match) continue;
    clearTimeout(timer);
    child.stdout.resume();
    return { match, folder, stop, log: () => log };
  }
  throw new Error(`${command} did not start:\n${log}`);
}

/** Starts a server with these settings. Nothing of the caller's settings reaches it. */
export async function serve(settings = {}) {
  const env = (folder) => ({
    GRPC_PORT: '0', HTTP_PORT: '0', OPENCODE_WORKSPACE: join(folder, 'workspace'), OPENCODE_DATA_DIR: join(folder, 'data'),
    ...settings,
  });
  const { match, ...rest } = await start(binary, [], env, /^listening on (\S+)/);
  return { url: match[1], ...rest };
}

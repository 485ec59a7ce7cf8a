// The page at / in a real browser: a message is sent through it, and its answer and its events are seen.
// Alone: `node tests/peers/page.mjs` after .ci/run installed things (Debian's chromium, npm's playwright-core).
// SCREENSHOTS=folder keeps pictures of it to look at; PAGE=static/index.html takes that file and not the built-in page.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { serve } from './server.mjs';

const server = await serve();
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const { SCREENSHOTS: pictures, PAGE: file } = process.env;

async function open(options) {
  const page = await browser.newPage(options);
  const wrong = [];
  page.on('pageerror', (error) => wrong.push(String(error)));
  // A refused request is told in the console too; the page shows it as well, which is looked at below.
  page.on('console', (line) => line.type() === 'error' && !/status of 4\d\d/.test(line.text()) && wrong.push(line.text()));
  page.on('request', (request) => request.url().startsWith(server.url) || request.url().startsWith('data:') ||
    wrong.push(`asks elsewhere: ${request.url()}`));
  if (file) {
    await page.route(server.url + '/', async (route) => {
      const { headers } = { headers: (await route.fetch()).headers() };
      delete headers['content-length'];
      await route.fulfill({ headers, body: readFileSync(file, 'utf8') });
    });
  }
  await page.goto(server.url);
  await page.getByRole('status').filter({ hasText: 'ready' }).waitFor();
  return { page, wrong };
}
const picture = (page, name) => pictures && page.screenshot({ path: `${pictures}/${name}.png` });

try {
  const desk = await open({ viewport: { width: 1200, height: 800 }, colorScheme: 'light' });
  const phone = await open({ viewport: { width: 390, height: 780 }, colorScheme: 'dark', isMobile: true });

  // Nothing is configured here, so the demonstration is proposed.
  assert.equal(await desk.page.getByLabel('Model').inputValue(), 'mock/demo');
  const markup = 'hello <img src=x onerror="window.broken = true"> & more';
  await desk.page.getByRole('textbox', { name: 'Message' }).fill(markup);
  await desk.page.getByRole('textbox', { name: 'Message' }).press('Enter');
  await desk.page.locator('article', { hasText: 'talk to a real model.' }).waitFor();
  await desk.page.locator('#raw b', { hasText: 'turn_completed' }).waitFor({ state: 'attached' });
  await desk.page.getByRole('status').filter({ hasText: 'ready' }).waitFor();
  await picture(desk.page, 'desk');

  // What was said is text, on the other page too, which only followed.
  for (const { page } of [desk, phone]) {
    await page.locator('article', { hasText: 'talk to a real model.' }).waitFor();
    assert.equal(await page.locator('article.user .text').textContent(), markup);
    assert.equal(await page.evaluate(() => window.broken), undefined);
    const seen = await page.locator('#raw b').allTextContents();
    for (const type of ['turn_started', 'content_delta', 'tool_call_completed', 'turn_completed']) {
      assert(seen.includes(type), `${type} is in the event pane`);
    }
  }
  await picture(phone.page, 'phone');
  await phone.page.getByRole('button', { name: 'Events' }).click();
  await phone.page.locator('#raw summary').last().click();
  await phone.page.locator('#raw pre', { hasText: '"finish_reason": "end_turn"' }).waitFor();
  await picture(phone.page, 'events');
  await phone.page.getByRole('button', { name: 'Events' }).click();

  // Followed word by word or read afterwards: one conversation.
  const shown = (page) => page.locator('#messages').textContent();
  const followed = await shown(desk.page);
  await phone.page.reload();
  await phone.page.locator('article', { hasText: 'talk to a real model.' }).waitFor();
  assert.equal(await shown(phone.page), followed);

  // A running turn refuses the next message, in words, and can be canceled.
  await desk.page.getByRole('textbox', { name: 'Message' }).fill('once more');
  await desk.page.getByRole('button', { name: 'Send' }).click();
  await desk.page.getByRole('status').filter({ hasText: 'working' }).waitFor();
  await phone.page.getByRole('textbox', { name: 'Message' }).fill('me too');
  await phone.page.getByRole('textbox', { name: 'Message' }).press('Enter');
  await phone.page.getByRole('alert').filter({ hasText: 'turn' }).waitFor();
  await picture(phone.page, 'busy');
  await desk.page.getByRole('button', { name: 'Cancel' }).click();
  await desk.page.locator('.note', { hasText: 'cancelled' }).waitFor();
  await picture(desk.page, 'canceled');

  // A new session empties both.
  desk.page.on('dialog', (dialog) => dialog.accept());
  await desk.page.getByRole('button', { name: 'Reset' }).click();
  for (const { page } of [desk, phone]) await page.waitForFunction(() => !document.querySelector('article'));

  // Where tokens are asked for, the page asks for one, and goes on with it after a reload.
  const token = 'a-token-of-the-page-test';
  const guarded = await serve({ OPENCODE_API_TOKEN: token, OPENCODE_MODEL: 'mock/demo' });
  const page = await browser.newPage();
  await page.goto(guarded.url);
  await page.getByLabel('token').fill('a wrong one of them');
  await page.getByRole('button', { name: 'Enter' }).click();
  await page.getByRole('status').filter({ hasText: 'not good' }).waitFor();
  await picture(page, 'token');
  await page.getByLabel('token').fill(token);
  await page.getByRole('button', { name: 'Enter' }).click();
  await page.getByRole('textbox', { name: 'Message' }).fill('hello');
  await page.getByRole('textbox', { name: 'Message' }).press('Enter');
  await page.locator('#raw b', { hasText: 'turn_completed' }).waitFor({ state: 'attached' });
  await page.reload();
  await page.locator('article', { hasText: 'talk to a real model.' }).waitFor();
  guarded.stop();

  assert.deepEqual(desk.wrong, []);
  assert.deepEqual(phone.wrong, []);
  console.log('page: a turn was sent, seen, canceled and reset in chromium');
} catch (error) {
  console.error(server.log());
  throw error;
} finally {
  await browser.close();
  server.stop();
}
